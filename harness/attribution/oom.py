"""Clues of the kernel's OOM killer: whom it chose, and whose limit it was.

Rule: the victim's identity decides, never Docker's OOMKilled flag and never 137. The
kernel's own line says whose limit; where the rate limit swallowed it, the counters of
`memory.events.local` may, and v1's failcnt a little.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from harness.attribution.table import Clue, Clues
from harness.history.clock import KERNEL
from harness.history.model import Seen
from harness.parse import below, container_of
from harness.parse.cgroup import is_unlimited
from harness.parse.kernel import OomInvoked, OomKill, OomKilled
from harness.parse.trace import SI_KERNEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.attribution.case import Case
    from harness.events import ProcEvent

TEARDOWN = 10_000_000_000
"""A victim that holds much memory, in a machine that has none, takes seconds to be gone."""

CHAIN = 1_000_000_000
"""How long after a child was killed a main process still leaves because of it: a shell
does in milliseconds."""

UNRELATED = 300_000_000
"""The same where it is not known whether the victim was a child of the main process."""


AT_ONCE = 500_000_000
"""What a main process does first after one of its processes was killed: clean up, report."""


class Scope(StrEnum):
    """Whose memory ran out."""

    OWN = "own"
    PARENT = "parent"
    MACHINE = "machine"


def scope_of(case: Case, kill: OomKill) -> Scope | None:
    """Whose limit it was, by the kernel's line; None when it could be either's."""
    if kill.limit_cgroup is None:
        return Scope.MACHINE
    if container_of(kill.limit_cgroup) == case.container:
        return Scope.OWN
    machine = case.machine_cgroup
    if machine is not None:
        if kill.limit_cgroup.rstrip("/") == machine.rstrip("/") or below(
            machine, kill.limit_cgroup
        ):
            return Scope.MACHINE
        if below(kill.limit_cgroup, machine) and below(kill.victim_cgroup, kill.limit_cgroup):
            return Scope.PARENT
        return None
    if kill.limit_cgroup == "/":
        return Scope.MACHINE
    ancestor = any(
        s.what.scope == "ancestor" and s.what.path.rstrip("/") == kill.limit_cgroup.rstrip("/")
        for s in case.history.files
    )
    return Scope.PARENT if ancestor and case.history.hellos else None


def _main_lines(case: Case) -> list[Seen[OomKill]]:
    main = case.main
    if main is None:
        return []
    return [
        _as(s, s.what)
        for s in case.history.kernel
        if isinstance(s.what, OomKill)
        and s.what.pid == main.pid
        and _in_life(case, s.at, s.error)
        # The line names where the victim lived: a pid that was used again lives elsewhere.
        and container_of(s.what.victim_cgroup) in (case.container, None)
    ]


def _as(seen: Seen[Any], what: OomKill) -> Seen[OomKill]:
    return Seen(seen.at, seen.error, seen.n, seen.source, what)


def _in_life(case: Case, at: int, error: int) -> bool:
    return case.begin - error - KERNEL <= at <= case.at + error + case.exact


def chose_main(case: Case) -> Clues:
    """the OOM killer chose the main process"""
    main = case.main
    if main is None or case.left_with is not None or case.killed_by not in (None, 9):
        return ()
    blow = case.blow
    if blow is not None and blow.what.code != SI_KERNEL:
        return ()  # somebody's SIGKILL had reached it before: the choice came too late
    clues = [
        Clue(v.n, "trace", "the kernel marked the main process as OOM victim")
        for v in case.history.victims
        if v.what.pid == main.pid and _in_life(case, v.at, v.error) and v.at >= case.at - TEARDOWN
    ]
    for s in case.history.kernel:
        fact = s.what
        if (
            (
                isinstance(fact, OomKill | OomKilled)
                and fact.pid == main.pid
                and _in_life(case, s.at, s.error)
            )
            and s.at >= case.at - TEARDOWN
            and (
                isinstance(fact, OomKilled)
                or container_of(fact.victim_cgroup) in (case.container, None)
            )
        ):
            clues.append(Clue(s.n, "kernel", "the kernel log names the main process as OOM victim"))
    if not clues:
        return ()
    if blow is not None:
        clues.append(Clue(blow.n, "trace", "SIGKILL from the kernel reached the main process"))
    return tuple(clues)


@dataclass(frozen=True, slots=True)
class Fallen:
    """A process of the container, other than its main one, that the OOM killer took.

    kill: the kernel's own line about it, when that was printed.
    """

    pid: int
    at: int
    kill: Seen[OomKill] | None
    clues: Clues
    child: bool | None


def _descends(case: Case, pid: int, ppid: int | None, at: int) -> bool | None:
    """Did the main process make it? An exec's process is made by the shim; None: not known."""
    main = case.main
    if main is None:
        return None
    shims = {s.what.pid for s in case.history.daemons if s.what.name == "shim"}
    forks = {f.what.pid for f in case.history.makers(pid, at)}
    if main.pid in forks:
        return True
    # Whom a maker was left to when it ended: an exec's first process is the shim's. (An
    # orphan is the main process's by adoption: who made it counts before who reaped it.)
    left_to = {
        p.what.ppid
        for p in case.history.procs
        if p.what.what == "exit" and p.what.pid in forks and p.what.ppid is not None
    }
    if shims & (forks | left_to):
        return False
    if ppid == main.pid:
        return True
    return False if ppid in shims else None


def victims(case: Case) -> tuple[Fallen, ...]:
    """Other processes of this container that the OOM killer took before its end, oldest first.

    The kernel's line says where they lived; without it a marked victim that was a child
    of the main process is one too.
    """
    main = case.main.pid if case.main is not None else None
    found: dict[int, list[Clue]] = {}
    when: dict[int, int] = {}
    lines: dict[int, Seen[OomKill]] = {}
    for s in case.history.kernel:
        if (
            isinstance(s.what, OomKill)
            and container_of(s.what.victim_cgroup) == case.container
            and s.what.pid != main
            and case.begin - s.error <= s.at <= case.at + s.error
        ):
            lines[s.what.pid] = _as(s, s.what)
            when[s.what.pid] = s.at
            words = f"the kernel log names process {s.what.pid} of the container as OOM victim"
            found.setdefault(s.what.pid, []).append(Clue(s.n, "kernel", words))
    fell = {
        p.what.pid: p
        for p in case.history.procs
        if p.what.what == "exit"
        and p.what.status is not None
        and p.what.status & 0x7F == 9
        and p.what.pid != main
        and case.begin <= p.at <= case.at + 20_000_000
    }
    for v in case.history.victims:
        pid = v.what.pid
        if pid == main or not case.begin <= v.at <= case.at:
            continue
        child = pid in fell and main is not None and fell[pid].what.ppid == main
        if pid in lines or child:
            when.setdefault(pid, v.at)
            words = f"the kernel marked process {pid} as OOM victim"
            found.setdefault(pid, []).append(Clue(v.n, "trace", words))
    for pid, clues in found.items():
        if pid in fell:
            clues.append(Clue(fell[pid].n, "proc", f"process {pid} was killed by signal 9"))
    return tuple(
        sorted(
            (
                Fallen(
                    pid,
                    when[pid],
                    lines.get(pid),
                    tuple(clues),
                    _descends(case, pid, _ppid(fell, pid), when[pid]),
                )
                for pid, clues in found.items()
            ),
            key=lambda f: f.at,
        )
    )


def _ppid(fell: Mapping[int, Seen[ProcEvent]], pid: int) -> int | None:
    return fell[pid].what.ppid if pid in fell else None


def _near(case: Case) -> list[Fallen]:
    """Those that fell so shortly before the end that they are its reason.

    An exec's process that fell is none: the main process knows nothing of it.
    """
    return [
        f
        for f in victims(case)
        if f.child is not False
        and case.at - f.at <= (window(case, 9) if f.child else UNRELATED)
        # Where nobody traced, a signal may have come meanwhile: only the status of the killed,
        # passed on, says that it left of this.
        and (case.watched("trace") or (f.child and case.left_with == 128 + 9))
        and not _went_on(case, f)
    ]


def _went_on(case: Case, fallen: Fallen) -> bool:
    """Did the main process start something else after it, and leave only when that was over?

    One that passes the status on says itself what it left of.
    """
    if case.main is None or case.left_with == 128 + 9 or case.at - fallen.at <= UNRELATED:
        return False
    begun = [
        f.what.child
        for f in case.history.forks
        if f.what.pid == case.main.pid and fallen.at < f.at <= case.at
    ]
    return any(
        p.what.what == "exit" and p.what.pid in begun and p.at - fallen.at > UNRELATED
        for p in case.history.procs
    )


def chose_child(case: Case) -> Clues:
    """the OOM killer chose another process of the container just before its main process left"""
    if case.main is None or case.left_with is None:
        return ()
    return tuple(clue for fallen in _near(case) for clue in fallen.clues)


def because_of_it(case: Case) -> Clues:
    """its main process left at once after that kill, or with the status of the killed"""
    return tuple(
        clue
        for fallen in _near(case)
        if case.left_with == 128 + 9 or case.at - fallen.at <= UNRELATED
        for clue in fallen.clues[:1]
    )


def window(case: Case, signal: int) -> int:
    """How long a main process may take to leave after a child was killed by this signal.

    One that passes the child's status on says itself why it left: it may take longer.
    """
    return 5 * CHAIN if case.left_with == 128 + signal else CHAIN


def _deciding(case: Case, *, child: bool) -> list[tuple[Scope | None, int]]:
    """(scope, event) of the lines about the kill that ended it."""
    if child:
        return [(scope_of(case, f.kill.what), f.kill.n) for f in _near(case) if f.kill is not None]
    return [(scope_of(case, k.what), k.n) for k in _main_lines(case)]


def _scoped(case: Case, wanted: Scope, *, child: bool) -> Clues:
    lines = _deciding(case, child=child)
    if lines:
        if {scope for scope, _ in lines} != {wanted}:
            return ()
        return tuple(Clue(n, "kernel", _WORDS[wanted]) for _, n in lines)
    return _by_counters(case, wanted, {f.pid for f in _near(case)} if child else _main_pid(case))


_WORDS = {
    Scope.OWN: "the kernel log says the limit was the container's own",
    Scope.PARENT: "the kernel log says the limit was that of a cgroup above the container",
    Scope.MACHINE: "the kernel log says the whole machine was out of memory",
}


def _main_pid(case: Case) -> set[int]:
    return set() if case.main is None else {case.main.pid}


def _by_counters(case: Case, wanted: Scope, pids: set[int]) -> Clues:
    """The scope without the kernel's line: who hit a limit of his own, and who has none."""
    own, machine = case.cgroup, case.machine_cgroup
    if own is None:
        return ()
    begin, end = case.at - TEARDOWN, case.at + 10**9
    mine = case.rises(own, "memory.events.local", "oom", begin, end)
    above = case.rises(machine, "memory.events.local", "oom", begin, end) if machine else None
    if mine is not None and above is None:
        return (
            (Clue(mine.n, "cgroup", "the container's own memory.events.local counts an OOM"),)
            if wanted is Scope.OWN
            else ()
        )
    if above is not None and mine is None and wanted is Scope.MACHINE:
        return (Clue(above.n, "cgroup", "the machine's own memory.events.local counts an OOM"),)
    # "Killed process" says at least whether some cgroup's limit was hit or the machine ran out.
    main = case.main.pid if case.main is not None else None
    for s in case.history.kernel:
        if isinstance(s.what, OomKilled) and s.what.pid == main and _in_life(case, s.at, s.error):
            if not s.what.cgroup_limit:
                return (
                    (Clue(s.n, "kernel", _WORDS[Scope.MACHINE]),) if wanted is Scope.MACHINE else ()
                )
            bare = unlimited(case)
            if (
                machine is not None
                and bare
                and wanted is Scope.MACHINE
                and not _limited_between(case)
            ):
                return (Clue(s.n, "kernel", "the kernel log says a cgroup's limit was hit"), *bare)
    return ()


def _failed(case: Case, path: str) -> Seen[int] | None:
    """Did this cgroup (v1) fail to get memory just before? None also when it was not sampled."""
    series = case.numbers(path, "memory.failcnt")
    for old, new in pairwise(series):
        if new.what > old.what and case.at - TEARDOWN <= new.at <= case.at + 10**9:
            return new
    return None


def _calm(case: Case, path: str) -> bool:
    """Was it sampled, and did it not fail to get memory just before?"""
    return len(case.numbers(path, "memory.failcnt")) > 0 and _failed(case, path) is None


def _line(case: Case) -> bool:
    """Did the kernel print whose limit it was? Then the weaker clues have nothing to say."""
    return bool(_main_lines(case)) or any(f.kill is not None for f in _near(case))


def own_failcnt(case: Case) -> Clues:
    """the container was refused memory at its own limit, and nobody above it was (v1)"""
    own, machine = case.cgroup, case.machine_cgroup
    if own is None or machine is None or _line(case):
        return ()
    failed = _failed(case, own)
    if failed is None or not all(_calm(case, p) for p in (machine, *_between(case))):
        return ()
    return (Clue(failed.n, "cgroup", "the container was refused memory at its own limit"),)


def machine_failcnt(case: Case) -> Clues:
    """the machine was refused memory at its limit, and the container was not (v1)"""
    own, machine = case.cgroup, case.machine_cgroup
    if own is None or machine is None or _line(case):
        return ()
    failed = _failed(case, machine)
    if failed is None or not all(_calm(case, p) for p in (own, *_between(case))):
        return ()
    return (Clue(failed.n, "cgroup", "the machine was refused memory at its limit"),)


def _between(case: Case) -> list[str]:
    """The cgroups between the container's and the machine's."""
    machine = (case.machine_cgroup or "/").rstrip("/")
    steps = (case.cgroup or "").strip("/").split("/")
    paths = ["/" + "/".join(steps[:n]) for n in range(1, len(steps))]
    return [p for p in paths if below(p, machine)]


def unlimited(case: Case) -> Clues:
    """the container has no memory limit of its own"""
    if case.cgroup is None:
        return ()
    for file in ("memory.max", "memory.limit_in_bytes"):
        seen = case.text(case.cgroup, file)
        if seen is not None:
            return (
                (Clue(seen.n, "cgroup", "the container has no memory limit of its own"),)
                if is_unlimited(seen.what)
                else ()
            )
    return ()


def _limited_between(case: Case) -> bool:
    """Has any cgroup between the container and the machine a limit, or is that not known?"""
    for path in _between(case):
        texts = [
            t
            for f in ("memory.max", "memory.limit_in_bytes")
            if (t := case.text(path, f)) is not None
        ]
        if not texts or not all(is_unlimited(t.what) for t in texts):
            return True
    return False


def own_limit(case: Case) -> Clues:
    """the memory limit that was hit is the container's own"""
    return _scoped(case, Scope.OWN, child=False)


def parent_limit(case: Case) -> Clues:
    """the memory limit that was hit belongs to a cgroup between the container and the machine"""
    return _scoped(case, Scope.PARENT, child=False)


def machine_limit(case: Case) -> Clues:
    """the whole machine was out of memory"""
    return _scoped(case, Scope.MACHINE, child=False)


def own_limit_child(case: Case) -> Clues:
    """the memory limit that was hit is the container's own"""
    return _scoped(case, Scope.OWN, child=True)


def parent_limit_child(case: Case) -> Clues:
    """the memory limit that was hit belongs to a cgroup between the container and the machine"""
    return _scoped(case, Scope.PARENT, child=True)


def machine_limit_child(case: Case) -> Clues:
    """the whole machine was out of memory"""
    return _scoped(case, Scope.MACHINE, child=True)


def any_victim(case: Case) -> Clues:
    """the OOM killer chose a process of the container"""
    return chose_main(case) or tuple(clue for f in victims(case) for clue in f.clues)


def any_sign(case: Case) -> Clues:
    """something says that the OOM killer was at work in the container"""
    begin = case.at - TEARDOWN
    fallen = victims(case)
    if found := chose_main(case) or tuple(
        clue for f in fallen if f.child is not False and f.at >= begin for clue in f.clues
    ):
        return found
    if fallen and all(f.child is False for f in fallen):
        return ()  # what the counters and the engine tell of were an exec's processes
    if found := counted(case):
        return found
    mine = case.main.pid if case.main is not None else None
    elsewhere = {
        s.what.pid
        for s in case.history.kernel
        if isinstance(s.what, OomKill) and container_of(s.what.victim_cgroup) != case.container
    }
    marked = tuple(
        Clue(v.n, "trace", f"the kernel marked process {v.what.pid} as OOM victim")
        for v in case.history.victims
        if begin <= v.at <= case.at and v.what.pid != mine and v.what.pid not in elsewhere
    )
    noticed = tuple(
        Clue(s.n, "docker", "the engine noticed an OOM in the container")
        for s in case.engine("oom")
        if begin <= s.at <= case.at + 10**9
    )
    return marked or noticed


def engine_oom(case: Case) -> Clues:
    """the engine noticed an OOM in the container"""
    return tuple(
        Clue(s.n, "docker", "the engine noticed an OOM in the container")
        for s in case.engine("oom")
        if abs(s.at - case.at) <= TEARDOWN
    )[:1]


def counted(case: Case) -> Clues:
    """the container's cgroup counted an OOM kill"""
    if case.cgroup is None:
        return ()
    for file in ("memory.events", "memory.oom_control"):
        rise = case.rises(case.cgroup, file, "oom_kill", case.at - TEARDOWN, case.at + 10**9)
        if rise is not None:
            return (Clue(rise.n, "cgroup", "the container's cgroup counted an OOM kill"),)
    return ()


def asked_by_exec(case: Case) -> str | None:
    """Who asked for the memory that was not there, when that was an exec's runtime."""
    for s in case.history.kernel:
        if (
            isinstance(s.what, OomInvoked)
            and s.what.name.startswith("runc:[")
            and abs(s.at - case.at) <= CHAIN
        ):
            return s.what.name
    return None


def whole_group(case: Case) -> bool:
    """Were several processes of the container chosen at one instant (memory.oom.group)?"""
    lines = _main_lines(case)
    return bool(lines) and any(abs(f.at - lines[0].at) <= 10_000_000 for f in victims(case))
