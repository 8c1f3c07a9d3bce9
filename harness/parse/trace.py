r"""Lines of a tracefs `trace_pipe`, as typed facts.

The record this module reads, as `trace_pipe` prints it (padded name of the current
task, dash, its pid, CPU, flags, time stamp, event, fields):

    >>> parse_trace(
    ...     "            runc-16453   [001] d..2.  5331.914523: signal_generate: "
    ...     "sig=9 errno=0 code=0 comm=sleep pid=16399 grp=1 res=0"
    ... )
    Signal(sender=16453, sender_name='runc', sig=9, code=0, pid=16399, name='sleep', group=True, result=0)

The sender is only `current`: for code SI_KERNEL (128) that is whoever happened to run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SI_KERNEL = 128
SI_TKILL = -6
_SENT = frozenset({0, -1, SI_TKILL})
"""`code` of a signal the kernel itself raised."""

DELIVERED, IGNORED, PENDING = 0, 1, 2
"""`result` of a Signal (enum in kernel/signal.c: TRACE_SIGNAL_*): anything else was lost."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal was generated. pid is the receiving thread, sender the running task."""

    sender: int
    sender_name: str
    sig: int
    code: int
    pid: int
    name: str
    group: bool
    result: int

    @property
    def sent(self) -> bool:
        """Did the running task send it (kill, sigqueue, tgkill)?

        A fault, the kernel itself, a timer or a finished request raise signals in
        whatever task happens to run.
        """
        return self.code in _SENT


@dataclass(frozen=True, slots=True)
class TaskExit:
    """A thread left. last: of its thread group; None on kernels that do not say (before 6.15)."""

    pid: int
    name: str
    last: bool | None


@dataclass(frozen=True, slots=True)
class OomVictim:
    """The OOM killer marked this process (a thread group's leader or a thread of it)."""

    pid: int
    current: int
    current_name: str


@dataclass(frozen=True, slots=True)
class Forked:
    """pid made child."""

    pid: int
    child: int
    name: str


@dataclass(frozen=True, slots=True)
class Executed:
    """pid became the program at filename (as named to the kernel: relative, or hostile)."""

    pid: int
    filename: str


TraceFact = Signal | TaskExit | OomVictim | Forked | Executed
"""What a trace line can be."""

# The name of the current task is at most 15 bytes and may hold spaces, dashes and
# digits; it is too short to hold a whole "-pid [cpu] flags stamp: event:" of its own,
# so the first place where all of that stands is the real one. The tgid column
# ("(  123)" or "(-------)") is there when the record-tgid option is on.
_HEAD = re.compile(
    r"\s*(?P<comm>.{0,40}?)-(?P<pid>\d+)\s+(?:\(\s*(?:\d+|-+)\)\s+)?\[\d{3,}\]\s+(?:\S+\s+)?"
    r"\d+\.\d{6,9}: (?P<event>\w+): (?P<rest>.*)",
    re.DOTALL,
)
# `comm=` takes what is left between its fixed neighbours: the last " pid=" wins.
_SIGNAL = re.compile(
    r"sig=(?P<sig>\d+) errno=-?\d+ code=(?P<code>-?\d+) comm=(?P<comm>.*) "
    r"pid=(?P<pid>\d+) grp=(?P<grp>[01]) res=(?P<res>\d+)\s*",
    re.DOTALL,
)
_EXIT = re.compile(
    r"comm=(?P<comm>.*) pid=(?P<pid>\d+) prio=-?\d+(?: group_dead=(?P<last>true|false|[01]))?\s*",
    re.DOTALL,
)
_VICTIM = re.compile(r"pid=(?P<pid>\d+)(?:\s.*)?", re.DOTALL)
_FORK = re.compile(
    r"comm=.* pid=(?P<pid>\d+) child_comm=(?P<comm>.*) child_pid=(?P<child>\d+)\s*", re.DOTALL
)
# task_newtask says it of processes and threads alike, by clone_flags.
_NEW = re.compile(
    r"pid=(?P<child>\d+) comm=(?P<comm>.*) clone_flags=(?P<flags>[0-9a-f]+) oom_score_adj=-?\d+\s*",
    re.DOTALL,
)
_CLONE_THREAD = 0x10000
_EXEC = re.compile(r"filename=(?P<file>.*) pid=(?P<pid>\d+) old_pid=\d+\s*", re.DOTALL)


def parse_trace(text: str) -> TraceFact | None:
    """Read one line; None when it is another event, a marker or cut off.

    >>> parse_trace(
    ...     "           sleep-16399   [000] .....  5331.914603: sched_process_exit: "
    ...     "comm=sleep pid=16399 prio=120 group_dead=true"
    ... )
    TaskExit(pid=16399, name='sleep', last=True)
    >>> parse_trace(
    ...     "          memhog-23229   [001] d..1.   191.691004: mark_victim: pid=23229 comm=memhog "
    ...     "total-vm=70000kB anon-rss=32000kB file-rss:4kB shmem-rss:0kB uid=0 pgtables=100kB oom_score_adj=0"
    ... )
    OomVictim(pid=23229, current=23229, current_name='memhog')
    >>> parse_trace("CPU:1 [LOST 1743 EVENTS]") is None
    True
    """
    head = _HEAD.fullmatch(text.rstrip("\n"))
    if head is None:
        return None
    rest = head["rest"]
    match head["event"]:
        case "signal_generate":
            if m := _SIGNAL.fullmatch(rest):
                return Signal(
                    sender=int(head["pid"]),
                    sender_name=head["comm"].strip(),
                    sig=int(m["sig"]),
                    code=int(m["code"]),
                    pid=int(m["pid"]),
                    name=m["comm"],
                    group=m["grp"] == "1",
                    result=int(m["res"]),
                )
        case "sched_process_exit":
            if m := _EXIT.fullmatch(rest):
                last = None if m["last"] is None else m["last"] in ("true", "1")
                return TaskExit(pid=int(m["pid"]), name=m["comm"], last=last)
        case "mark_victim":
            if m := _VICTIM.fullmatch(rest):
                return OomVictim(int(m["pid"]), int(head["pid"]), head["comm"].strip())
        case "sched_process_fork":
            if m := _FORK.fullmatch(rest):
                return Forked(int(m["pid"]), int(m["child"]), m["comm"])
        case "task_newtask":
            if (m := _NEW.fullmatch(rest)) and not int(m["flags"], 16) & _CLONE_THREAD:
                return Forked(int(head["pid"]), int(m["child"]), m["comm"])
        case "sched_process_exec":
            if m := _EXEC.fullmatch(rest):
                return Executed(int(m["pid"]), m["file"])
        case _:
            pass
    return None
