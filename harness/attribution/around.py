"""Clues around a main process that left by itself: how it left, and what had hit its children.

Rule: a trigger is something the kernel or the tracer recorded, shortly before. What happens
after the end (namespaces torn down, children killed with it) is its consequence and is not
looked at. What the container lives on stands in `surroundings`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.attribution.senders import HARMLESS, place
from harness.attribution.table import Clue, Clues
from harness.history.clock import KERNEL
from harness.model.verdicts import Sender, SenderKind
from harness.parse.kernel import Crash, SeccompKill
from harness.parse.trace import DELIVERED, SI_KERNEL, SI_TKILL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.attribution.case import Case
    from harness.events import ProcEvent
    from harness.history.model import Seen
    from harness.parse.trace import Signal

SHORTLY = 1_500_000_000
"""How long before an end a trigger still counts as its reason. A shell that is refused a
fork, a write or a child leaves in milliseconds; a loop with `sleep 1` in a second."""

CORE = frozenset({4, 5, 6, 7, 8, 11, 31})
"""Signals a process brings on itself."""


# --- how it left -------------------------------------------------------------------


def left(case: Case) -> Clues:
    """its main process ended by itself"""
    if case.left_with is None:
        return ()
    status = case.death.wait_status
    for p in case.history.procs:
        if status is not None and p.n in case.ending.witnesses and p.what.status == status:
            return (Clue(p.n, "proc", f"the main process left with status {case.left_with}"),)
    die = case.ending.die
    return (
        ()
        if die is None
        else (Clue(die.n, "docker", f"the engine says exit code {case.left_with}"),)
    )


def left_with_zero(case: Case) -> Clues:
    """its main process ended by itself with status 0"""
    return left(case) if case.left_with == 0 else ()


def left_with_error(case: Case) -> Clues:
    """its main process ended by itself with an error status"""
    return left(case) if case.left_with else ()


def engine_agrees(case: Case) -> Clues:
    """the engine says the same exit code"""
    die = case.ending.die
    if die is None or die.what.exit_code != case.death.exit_code:
        return ()
    return (Clue(die.n, "docker", f"the engine says exit code {die.what.exit_code}"),)


def disagreement(case: Case) -> Clues:
    """the engine says another exit code than the kernel"""
    die, status = case.ending.die, case.death.wait_status
    if die is None or status is None or die.what.exit_code in (None, case.death.exit_code):
        return ()
    words = f"the engine says exit code {die.what.exit_code}, the kernel {case.death.exit_code}"
    return (Clue(die.n, "docker", words),)


def killed_by_core(case: Case) -> Clues:
    """its main process was ended by a signal that a fault of its own raises"""
    if case.killed_by not in CORE:
        return ()
    return tuple(
        Clue(p.n, "proc", f"the main process was killed by signal {case.killed_by}")
        for p in case.history.procs
        if p.n in case.ending.witnesses and p.what.status == case.death.wait_status
    )


def _raised(signal: Signal, pid: int) -> bool:
    """Did this process bring that signal on itself? The signal may name one of its threads."""
    if signal.code > 0:
        return pid in (signal.pid, signal.sender)
    return signal.sender == pid and (signal.pid == pid or signal.code == SI_TKILL)


def fault(case: Case) -> Clues:
    """the fault itself"""
    main = case.main
    if main is None:
        return ()
    clues = [
        Clue(s.n, "kernel", f"the kernel log has its fault ({getattr(s.what, 'what', 'seccomp')})")
        for s in case.history.kernel
        if isinstance(s.what, Crash | SeccompKill)
        and s.what.pid == main.pid
        and abs(s.at - case.at) <= 2 * SHORTLY
    ]
    clues += [
        Clue(s.n, "trace", f"it raised signal {s.what.sig} itself")
        for s in case.history.signals
        if s.what.sig == case.killed_by
        and case.at - 2 * SHORTLY <= s.at <= case.at + KERNEL
        and _raised(s.what, main.pid)
    ]
    # Somebody else's SIGSEGV makes a core dump as well: only the tracer tells them apart.
    clues += [
        Clue(p.n, "proc", "the kernel began a core dump of it")
        for p in case.history.procs
        if case.watched("trace")
        and p.what.what == "coredump"
        and p.what.pid == main.pid
        and p.at >= main.begin
    ]
    return tuple(clues)


# --- children ----------------------------------------------------------------------


AT_ONCE = 300_000_000
"""So soon a main process leaves that leaves because of a child: a shell in milliseconds."""

OWN_ENDS = frozenset({13, 14})
"""Signals that end children in the ordinary course of things: a closed pipe, a timer."""


def children(case: Case, within: int = SHORTLY) -> Iterator[Seen[ProcEvent]]:
    """Direct children of the main process that ended shortly before it."""
    main = case.main
    if main is None:
        return
    for p in case.history.procs:
        if (
            p.what.what == "exit"
            and p.what.pid != main.pid
            and p.what.ppid == main.pid
            and case.at - within <= p.at <= case.at + 5_000_000
        ):
            yield p


def _passed_on(case: Case, at: int, number: int) -> bool:
    """Did it leave because a child fell to this signal then: with the child's status, or at once?"""
    code = case.left_with
    return code is not None and (code == 128 + number or case.at - at <= AT_ONCE)


def child_crashed(case: Case) -> Clues:
    """a child of the main process crashed, and the main process left because of it"""
    if not case.watched("trace") and not child_fault(case):
        return ()  # somebody may have sent it that signal
    return tuple(
        Clue(p.n, "proc", f"its child {p.what.pid} was killed by signal {p.what.status & 0x7F}")
        for p in children(case)
        if p.what.status is not None
        and p.what.status & 0x7F in CORE
        and _passed_on(case, p.at, p.what.status & 0x7F)
        and not _sent(case, p.what.pid, p.what.status & 0x7F)
    )


def _sent(case: Case, pid: int, number: int) -> bool:
    """Did somebody send it that signal (rather than a fault of its own)?"""
    return any(
        s.what.pid == pid and s.what.sig == number and s.what.sent and s.what.sender != pid
        for s in case.history.signals
        if case.at - 2 * SHORTLY <= s.at <= case.at
    )


def child_fault(case: Case) -> Clues:
    """the child's fault itself"""
    pids = {p.what.pid for p in children(case)}
    clues = [
        Clue(s.n, "kernel", f"the kernel log has the fault of process {s.what.pid}")
        for s in case.history.kernel
        if isinstance(s.what, Crash | SeccompKill)
        and s.what.pid in pids
        and abs(s.at - case.at) <= 2 * SHORTLY
    ]
    return tuple(clues) + tuple(
        Clue(s.n, "trace", f"process {s.what.pid} raised signal {s.what.sig} itself")
        for s in case.history.signals
        if s.what.sig in CORE and any(_raised(s.what, pid) for pid in pids)
    )


def _child_signals(case: Case) -> Iterator[Seen[Signal]]:
    """Signals that ended a child of the main process, which left because of that."""
    if case.main is None or case.left_with is None:
        return
    dead = {
        p.what.pid: p for p in children(case) if p.what.status is not None and p.what.status & 0x7F
    }
    for s in case.history.signals:
        child = dead.get(s.what.pid)
        if (
            child is not None
            and s.what.result == DELIVERED
            and case.at - SHORTLY <= s.at <= case.at
            and child.what.status is not None
            and child.what.status & 0x7F == s.what.sig
            and _passed_on(case, child.at, s.what.sig)
        ):
            yield s


def _child_killed(case: Case, *places: str) -> Clues:
    for s in _child_signals(case):
        if (
            s.what.sent
            and case.main is not None
            and s.what.sender not in (case.main.pid, s.what.pid)
            and place(case, s) in places
            # A helper of its own (`timeout`) that ends a child is the program's own way;
            # only the status passed on says that it left because of that.
            and (case.left_with == 128 + s.what.sig or not _may_be_helper(case, s))
        ):
            clues = [
                Clue(
                    s.n,
                    "trace",
                    f"process {s.what.sender} sent its child {s.what.pid} signal {s.what.sig}",
                )
            ]
            clues += [
                Clue(p.n, "proc", f"its child {s.what.pid} was killed by signal {s.what.sig}")
                for p in children(case)
                if p.what.pid == s.what.pid
            ]
            return tuple(clues)
    return ()


def child_sender(case: Case) -> Sender | None:
    """Who killed the child that it left because of."""
    kinds = {
        "same-container": SenderKind.INSIDE,
        "other-container": SenderKind.OTHER_CONTAINER,
        "host": SenderKind.HOST_PROCESS,
        "engine": SenderKind.ENGINE,
    }
    for s in _child_signals(case):
        kind = kinds.get(place(case, s) or "")
        if s.what.sent and kind is not None:
            return Sender(kind, s.what.sender, s.what.sender_name)
    return None


def _may_be_helper(case: Case, signal: Seen[Signal]) -> bool:
    """Was the sender made by the main process, or by what that had made, or is that not known?"""
    if not case.history.active("lineage", max(case.begin, signal.at - SHORTLY), signal.at):
        return True
    makers = case.history.makers(signal.what.sender, signal.at)
    return case.main is not None and any(f.what.pid == case.main.pid for f in makers)


def child_told(case: Case) -> Clues:
    """somebody outside sent a child of the main process a signal to leave, just before"""
    gone = {p.what.pid for p in children(case) if p.at < case.at}
    return tuple(
        Clue(
            s.n, "trace", f"process {s.what.sender} sent its child {s.what.pid} signal {s.what.sig}"
        )
        for s in case.history.signals
        if s.what.pid in gone
        and s.what.sent
        and s.what.result == DELIVERED
        and case.at - SHORTLY <= s.at <= case.at
        and place(case, s) != "same-container"
    )


def inmate_told(case: Case) -> Clues:
    """somebody outside sent a process of the container a signal right before its main process left"""
    main = case.main
    return tuple(
        Clue(
            s.n,
            "sender",
            f"process {s.what.pid} sent process {s.what.to} of it signal {s.what.signal}",
        )
        for s in case.history.senders
        if s.what.container == case.container
        and s.what.place in ("host", "other-container")
        and (main is None or s.what.to != main.pid)
        and s.what.signal not in HARMLESS
        and case.at - AT_ONCE <= s.at <= case.at
    )


def child_killed_inside(case: Case) -> Clues:
    """a process of the container killed a child of the main process, which passed the status on"""
    return _child_killed(case, "same-container")


def child_killed_by_host(case: Case) -> Clues:
    """a process of the machine killed a child of the main process, which passed the status on"""
    return _child_killed(case, "host")


def child_killed_by_other(case: Case) -> Clues:
    """a process of another container killed a child of the main process, which passed the status on"""
    return _child_killed(case, "other-container")


def _own_kill(case: Case, pid: int, number: int) -> bool:
    """Did the main process send its child that signal (as `timeout` does), or the child itself?"""
    return case.main is not None and any(
        s.what.pid == pid and s.what.sig == number and s.what.sender in (case.main.pid, pid)
        for s in case.history.signals
        if case.at - 2 * SHORTLY <= s.at <= case.at
    )


def any_child_killed(case: Case) -> Clues:
    """a child of the main process was killed in the seconds before"""
    return tuple(
        Clue(p.n, "proc", f"its child {p.what.pid} was killed by signal {p.what.status & 0x7F}")
        for p in children(case, 2 * SHORTLY)
        if p.what.status is not None
        and p.what.status & 0x7F
        and p.what.status & 0x7F not in OWN_ENDS
        and not _own_kill(case, p.what.pid, p.what.status & 0x7F)
        # What falls after the end of the main process falls with its PID namespace.
        and not (case.death.at_source == "trace" and p.at > case.at)
    )


def child_hit(case: Case) -> Clues:
    """a signal that may have ended a child, of the number that the status speaks of"""
    code = case.left_with
    if case.main is None or code is None or code <= 128:
        return ()
    mains = {m.pid for m in case.history.mains}
    return tuple(
        Clue(s.n, "trace", f"process {s.what.pid} was sent signal {s.what.sig}")
        for s in case.history.signals
        if s.what.sig == code - 128
        and s.what.result == DELIVERED
        and s.what.pid not in mains
        and s.what.sender != case.main.pid
        and not (s.what.sent and s.what.sender == s.what.pid)
        and not (s.what.sig in OWN_ENDS and s.what.code == SI_KERNEL)
        and case.at - SHORTLY <= s.at <= case.at
        and case.history.daemon_at(s.what.pid, s.at) is None
    )


def cpu_limit(case: Case) -> Clues:
    """the kernel says that its CPU time is used up, or may be by the limit it was given"""
    main = case.main
    if main is None:
        return ()
    limits = case.ref.limits.get("Ulimits") if case.ref is not None else None
    given = any(isinstance(u, dict) and u.get("Name") == "cpu" for u in limits or ())
    if given and case.ref is not None:
        return (*_used_up(case, main.pid), Clue(case.ref.n, "config", "it was given a RLIMIT_CPU"))
    return _used_up(case, main.pid)


def _used_up(case: Case, main: int) -> Clues:
    clues = [
        Clue(s.n, "trace", "the kernel raised SIGXCPU: its CPU time is used up")
        for s in case.history.signals
        if s.what.sig == 24
        and s.what.code == SI_KERNEL
        and case.begin <= s.at <= case.at + KERNEL
        and (s.what.pid == main or any(p.what.pid == s.what.pid for p in children(case)))
    ]
    return tuple(clues[-2:])


def timer_kill(case: Case) -> Clues:
    """the kernel ended it from its own timer"""
    main, blow = case.main, case.blow
    if main is None:
        return ()
    if (
        blow is not None
        and blow.what.code == SI_KERNEL
        and blow.what.sig in (9, 24)
        and blow.what.sender == main.pid
    ):
        return (
            Clue(
                blow.n, "trace", f"the kernel raised signal {blow.what.sig} in the process itself"
            ),
        )
    raised = {
        (s.what.pid, s.what.sig)
        for s in case.history.signals
        if s.what.code == SI_KERNEL and s.what.sender == s.what.pid and s.what.sig in (9, 24)
    }
    chosen = {v.what.pid for v in case.history.victims}
    return tuple(
        Clue(p.n, "proc", f"its child {p.what.pid} was killed by signal {number}")
        for p in children(case)
        if p.what.status is not None
        and (number := p.what.status & 0x7F) in (9, 24)
        and case.left_with == 128 + number
        and (p.what.pid, number) in raised
        and p.what.pid not in chosen
    )


def bus_error(case: Case) -> Clues:
    """it was ended by SIGBUS: a page of a file that there was no room for"""
    return killed_by_core(case) if case.killed_by == 7 else ()


def bus_unexplained(case: Case) -> Clues:
    """it was ended by SIGBUS, and nobody could see whether a file system of its own was full"""
    if case.watched("mounts") and case.watched("cgroup"):
        return ()
    return bus_error(case)


def lived(case: Case) -> int:
    """How long its main process lived, ns."""
    return case.at - case.begin
