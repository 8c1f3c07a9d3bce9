r"""Kernel log records that bear on a death, as typed facts.

The record that tells most, as Linux prints it (mm/oom_kill.c: dump_oom_victim):

    >>> line = (
    ...     "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/docker/ab12,"
    ...     "mems_allowed=0,2-4,oom_memcg=/docker/ab12,task_memcg=/docker/ab12,"
    ...     "task=stress,pid=19289,uid=0"
    ... )
    >>> fact = parse_kernel(line)
    >>> fact.limit_cgroup, fact.victim_cgroup, fact.pid
    ('/docker/ab12', '/docker/ab12', 19289)
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OomKill:
    """The kernel chose this process to die for memory.

    Attributes:
        limit_cgroup: The cgroup whose limit was hit; None when the whole kernel ran out.
        victim_cgroup: Where the victim lived.
        pid: In the kernel's own numbering.
        name: At most 15 bytes, chosen by the process: a label, not an identity.
    """

    limit_cgroup: str | None
    victim_cgroup: str
    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class OomKilled:
    """The second line of the same kill: who was killed, and in which scope."""

    pid: int
    name: str
    cgroup_limit: bool


@dataclass(frozen=True, slots=True)
class OomInvoked:
    """Whose allocation called the OOM killer (order -1: by sysrq)."""

    name: str
    order: int


@dataclass(frozen=True, slots=True)
class ForkRejected:
    """The pids controller refused a fork in this cgroup. Printed once in a cgroup's life."""

    cgroup: str


@dataclass(frozen=True, slots=True)
class Crash:
    """A process of this pid (the thread's) took a fault that nobody handled."""

    pid: int
    name: str
    what: str


@dataclass(frozen=True, slots=True)
class SeccompKill:
    """seccomp killed this process."""

    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class StorageError:
    """A device or file system reported an error. what: io | fs-error | read-only."""

    device: str
    what: str


@dataclass(frozen=True, slots=True)
class LinkState:
    """A port of a bridge changed its state; `device` is a container's end of its network."""

    device: str
    state: str


@dataclass(frozen=True, slots=True)
class Suppressed:
    """The kernel says it left out lines: `count` of them (0: it does not say)."""

    what: str
    count: int


KernelFact = (
    OomKill
    | OomKilled
    | OomInvoked
    | ForkRejected
    | Crash
    | SeccompKill
    | StorageError
    | LinkState
    | Suppressed
)

# One expression each, anchored at both ends, not split(","): mems_allowed and nodemask
# hold commas of their own, a cgroup path may, and a process may call itself ",pid=1".
# So the numeric tail is tied to the end and the name takes what is left.
_OOM_KILL = re.compile(
    r"oom-kill:constraint=CONSTRAINT_\w+,nodemask=[^,=]*?(?:,[\d,-]*)?,cpuset=.*?,mems_allowed=[\d,-]*"
    r",(?:global_oom|oom_memcg=(?P<limit>/.*?)),task_memcg=(?P<home>/.*?)"
    r",task=(?P<comm>.{0,64}),pid=(?P<pid>\d+),uid=\d+\s*",
    re.DOTALL,
)
_KILLED = re.compile(
    r"(?P<scope>Memory cgroup out of memory|Out of memory(?: \(oom_kill_allocating_task\))?): "
    r"Kill(?:ed)? process (?P<pid>\d+)(?: \((?P<comm>.*?)\))?,? .*",
    re.DOTALL,
)
_INVOKED = re.compile(
    r"(?P<comm>.{1,64}) invoked oom-killer: gfp_mask=.*order=(?P<order>-?\d+), oom_score_adj=-?\d+\s*",
    re.DOTALL,
)
_FORK = re.compile(r"cgroup: fork rejected by pids controller in (?P<path>/\S*)\s*")
_SEGV = re.compile(
    r"(?P<comm>.{0,64})\[(?P<pid>\d+)\]: (?P<what>segfault|unhandled \w+.*?) at .*", re.DOTALL
)
_TRAP = re.compile(
    r"traps: (?P<comm>.{0,64})\[(?P<pid>\d+)\] (?P<what>[a-z][\w -]+?)(?: ip:.*|:.*)?", re.DOTALL
)
_SECCOMP = re.compile(
    r'audit: type=1326 .* pid=(?P<pid>\d+) comm=(?:"(?P<comm>[^"]*)"|(?P<hex>[0-9A-F]+)) .*sig=(?:9|31) .*',
    re.DOTALL,
)
_IO = re.compile(
    r"(?:blk_update_request: |Buffer )?I/O error,? (?:on )?dev (?P<dev>[\w/-]+), .*",
    re.IGNORECASE | re.DOTALL,
)
_FS = re.compile(
    r"(?:EXT4-fs|XFS|BTRFS)(?:[: ]+)(?:error|critical).{0,20}\(device (?P<dev>[\w/-]+)\).*",
    re.DOTALL,
)
_RO = re.compile(r"(?:EXT4-fs|BTRFS)[^(]*\((?P<dev>[\w/-]+)\): Remounting filesystem read-only\s*")
_LINK = re.compile(r"[\w.-]+: port \d+\((?P<dev>veth\w+)\) entered (?P<state>\w+) state\s*")
_SUPPRESSED = re.compile(
    r"(?P<what>[\w./ -]{1,60}): (?P<count>\d+) (?:output lines|callbacks) suppressed.*"
)


def parse_kernel(text: str) -> KernelFact | None:
    """Read one record; None when it says something else.

    The kernel log is a shared stream, and most of it is not about us.

    >>> parse_kernel("Memory cgroup out of memory: Killed process 812 (tail) total-vm:1kB, anon-rss:1kB")
    OomKilled(pid=812, name='tail', cgroup_limit=True)
    >>> parse_kernel("cgroup: fork rejected by pids controller in /docker/ab12")
    ForkRejected(cgroup='/docker/ab12')
    >>> parse_kernel("segv[4711]: segfault at 0 ip 0000 sp 0000 error 6 in segv[401000+1000]")
    Crash(pid=4711, name='segv', what='segfault')
    >>> parse_kernel("ODEBUG: Out of memory. ODEBUG disabled") is None
    True
    """
    text = text.rstrip("\n")
    if m := _OOM_KILL.fullmatch(text):
        return OomKill(m["limit"], m["home"], int(m["pid"]), m["comm"])
    if m := _KILLED.fullmatch(text):
        return OomKilled(int(m["pid"]), m["comm"] or "", m["scope"].startswith("Memory cgroup"))
    if m := _INVOKED.fullmatch(text):
        return OomInvoked(m["comm"], int(m["order"]))
    if m := _FORK.fullmatch(text):
        return ForkRejected(m["path"])
    if m := _TRAP.fullmatch(text):
        return Crash(int(m["pid"]), m["comm"], m["what"])
    if m := _SEGV.fullmatch(text):
        return Crash(int(m["pid"]), m["comm"], m["what"])
    if m := _SECCOMP.fullmatch(text):
        return SeccompKill(int(m["pid"]), m["comm"] or "")
    return _storage(text)


def _storage(text: str) -> StorageError | LinkState | Suppressed | None:
    if m := _IO.fullmatch(text):
        return StorageError(m["dev"], "io")
    if m := _FS.fullmatch(text):
        return StorageError(m["dev"], "fs-error")
    if m := _RO.fullmatch(text):
        return StorageError(m["dev"], "read-only")
    if m := _LINK.fullmatch(text):
        return LinkState(m["dev"], m["state"])
    if m := _SUPPRESSED.fullmatch(text):
        return Suppressed(m["what"], int(m["count"]))
    return None
