"""Clues of the kernel's OOM killer: whom it chose, and whose limit it was.

Rule: the victim's identity decides, never Docker's OOMKilled flag and never 137. The
kernel's own line says whose limit; where the rate limit swallowed it, the counters of
`memory.events.local` may, and v1's failcnt a little.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from harness.attribution.table import Clue, Clues
from harness.history.clock import KERNEL
from harness.history.model import Seen
from harness.parse import below, container_of
from harness.parse.cgroup import is_unlimited
from harness.parse.kernel import OomInvoked, OomKill, OomKilled
from harness.parse.trace import SI_KERNEL

if TYPE_CHECKING:
    from harness.attribution.case import Case

TEARDOWN = 10_000_000_000
"""A victim that holds much memory, in a machine that has none, takes seconds to be gone."""

CHAIN = 2_000_000_000
"""How long after one of its processes was killed a main process still leaves because of it."""


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
            isinstance(fact, OomKill | OomKilled)
            and fact.pid == main.pid
            and _in_life(case, s.at, s.error)
        ) and s.at >= case.at - TEARDOWN and (
            isinstance(fact, OomKilled)
            or container_of(fact.victim_cgroup) in (case.container, None)
        ):
            clues.append(
                Clue(s.n, "kernel", "the kernel log names the main process as OOM victim")
            )
    if not clues:
        return ()
    if blow is not None:
        clues.append(Clue(blow.n, "trace", "SIGKILL from the kernel reached the main process"))
    return tuple(clues)


def victims(case: Case) -> tuple[Seen[OomKill], ...]:
    """Kills of other processes of this container, by the kernel's own lines, before the end."""
    main = case.main.pid if case.main is not None else None
    return tuple(
        _as(s, s.what)
        for s in case.history.kernel
        if isinstance(s.what, OomKill)
        and container_of(s.what.victim_cgroup) == case.container
        and s.what.pid != main
        and case.begin - s.error <= s.at <= case.at + s.error
    )


def chose_child(case: Case) -> Clues:
    """the OOM killer chose another process of the container just before its main process left"""
    if case.main is None or case.left_with is None:
        return ()
    clues = []
    for kill in victims(case):
        if case.at - kill.at <= window(case, 9):
            clues.append(
                Clue(
                    kill.n,
                    "kernel",
                    f"the kernel log names process {kill.what.pid} of the container as OOM victim",
                )
            )
            clues += [
                Clue(v.n, "trace", f"the kernel marked process {kill.what.pid} as OOM victim")
                for v in case.history.victims
                if v.what.pid == kill.what.pid and abs(v.at - kill.at) <= 10**9
            ]
            clues += [
                Clue(p.n, "proc", f"process {kill.what.pid} was killed by signal 9")
                for p in case.history.procs
                if p.what.what == "exit"
                and p.what.pid == kill.what.pid
                and p.what.status == 9
                and kill.at - 10**9 <= p.at <= case.at + 20_000_000
            ]
    return tuple(clues)


def window(case: Case, signal: int) -> int:
    """How long a main process may take to leave after a child was killed by this signal.

    One that passes the child's status on says itself why it left: it may take longer.
    """
    return 5 * CHAIN if case.left_with == 128 + signal else CHAIN


def _deciding(case: Case, *, child: bool) -> list[tuple[Scope | None, int]]:
    """(scope, event) of the lines about the kill that ended it."""
    if child:
        return [
            (scope_of(case, k.what), k.n)
            for k in victims(case)
            if case.at - k.at <= window(case, 9)
        ]
    return [(scope_of(case, k.what), k.n) for k in _main_lines(case)]


def _scoped(case: Case, wanted: Scope, *, child: bool) -> Clues:
    lines = _deciding(case, child=child)
    if lines:
        if {scope for scope, _ in lines} != {wanted}:
            return ()
        return tuple(Clue(n, "kernel", _WORDS[wanted]) for _, n in lines)
    return _by_counters(case, wanted)


_WORDS = {
    Scope.OWN: "the kernel log says the limit was the container's own",
    Scope.PARENT: "the kernel log says the limit was that of a cgroup above the container",
    Scope.MACHINE: "the kernel log says the whole machine was out of memory",
}


def _by_counters(case: Case, wanted: Scope) -> Clues:
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
    paths = {s.what.path for s in case.history.files if s.what.scope == "ancestor"}
    machine = case.machine_cgroup or "/"
    between = [p for p in paths if below(case.cgroup or "", p) and below(p, machine)]
    for path in between:
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
    found = chose_main(case)
    if found:
        return found
    return tuple(
        Clue(
            k.n,
            "kernel",
            f"the kernel log names process {k.what.pid} of the container as OOM victim",
        )
        for k in victims(case)
    )


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
    return bool(lines) and any(abs(k.at - lines[0].at) <= 10_000_000 for k in victims(case))
