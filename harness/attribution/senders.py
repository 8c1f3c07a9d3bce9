"""Clues of signals: what ended the main process, and who sent it.

Rule: a sender is a place (inside, another container, the engine, the machine), known by
what the probe saw of it or by its lineage, never by its name alone. For a signal the
kernel raised the printed sender is only whoever was running. The last signal a process
could obey before it left is why it left, if it came shortly before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.attribution.table import Clue, Clues
from harness.history.clock import ENGINE, KERNEL
from harness.model.verdicts import Sender, SenderKind
from harness.parse.trace import DELIVERED, IGNORED, SI_KERNEL

if TYPE_CHECKING:
    from harness.attribution.case import Case
    from harness.history import Seen
    from harness.parse.trace import Signal

RUNTIMES = frozenset({"runc", "crun", "youki", "runsc", "kata-runtime"})
ENDING = frozenset({1, 2, 3, 15})
"""Signals that mean "leave" to a program that handles them."""
_RAISED = frozenset({4, 5, 6, 7, 8, 9, 11, 24, 25, 31})
"""What the kernel raises for a fault, a limit or an OOM: other rules look at those."""

_OF_A_TERMINAL = frozenset({1, 2, 3})
HARMLESS = frozenset({17, 18, 19, 20, 21, 22, 23, 28})
"""A child that ended, job control, a window's size: programs get these all the time."""
OBEY = 12_000_000_000
"""The engine on its way down gives ten seconds; who leaves later leaves for another reason."""
GOOD_MANNERS = 3_000_000_000
"""Who leaves with 0 some seconds after a signal that nobody waits behind may as well be done."""
ASKED_TO_STOP = 600_000_000_000
"""A stop whose last word came after the end was waiting for it all along, however long."""
AT_ONCE = 1_000_000_000
"""Who leaves so soon after a signal left because of it. Later, only who says so by its
status (128 + n, or 0 as the well-behaved do): programs outlive signals they handle."""
IN_ITS_HANDLER = 50_000_000
"""A program that ends itself in a signal's handler does so in milliseconds."""
SOON = 300_000_000
"""A little later it may still be why; it may also have been about to leave."""


def place(case: Case, signal: Seen[Signal]) -> str | None:
    """same-container | other-container | engine | host, or None when nobody saw the sender."""
    if not signal.what.sent:
        return None
    seen = case.sender_of(signal)
    if seen is not None:
        if seen.what.place == "same-container" and outside(case, signal):
            return None  # it lives in the container's cgroup, and in another PID namespace
        return seen.what.place
    chain = [
        signal.what.sender,
        *(f.what.pid for f in case.history.makers(signal.what.sender, signal.at)),
    ]
    for pid in chain:
        for main in case.history.mains:
            if main.pid == pid and main.begin <= signal.at:
                return "same-container" if main.container == case.container else "other-container"
        if case.history.daemon_at(pid, signal.at) is not None:
            return "engine"
    return None


def outside(case: Case, signal: Seen[Signal]) -> bool:
    """Can the sender only have been outside? Nothing inside can SIGKILL its own init."""
    return bool(
        case.main
        and case.main.init
        and signal.what.pid == case.main.pid
        and signal.what.sig == 9
        and signal.what.result == DELIVERED
    )


def obeyed(case: Case) -> Seen[Signal] | None:
    """The signal it left on: the last that somebody sent it and that it could obey."""
    if case.killed_by is not None:
        return None
    if case.left_with is None and case.death.exit_code is None:
        return None
    for s in reversed(case.to_main):
        if not s.what.sent or s.what.result != DELIVERED or s.at > case.at + KERNEL:
            continue
        if case.at - s.at <= _patience(case, s):
            return s
    return None


def _patience(case: Case, signal: Seen[Signal]) -> int:
    """How long after this signal an end can still be the answer to it; -1: never."""
    sig = signal.what.sig
    if by_runtime(case, signal):
        told = [e for e in case.foreign("kill") if e.what.signal in (None, sig)]
        if told and case.foreign("stop", "restart"):
            return ASKED_TO_STOP  # the image says which signal: it may be any
        if not told and sig in ENDING - {1}:
            return OBEY
    if sig in ENDING - {1}:
        if case.death.exit_code == 128 + sig:
            return OBEY
        return GOOD_MANNERS if case.death.exit_code == 0 else AT_ONCE
    # Any other may mean anything to a program that handles it: only an end at once is one.
    return -1 if sig in HARMLESS or sig in _RAISED else IN_ITS_HANDLER


def by_runtime(case: Case, signal: Seen[Signal]) -> bool:
    """Is its sender the engine's, or, where nobody saw the sender, called like a runtime?"""
    where = place(case, signal)
    return where == "engine" or (where is None and signal.what.sender_name in RUNTIMES)


def loosely(case: Case) -> bool:
    """Did it obey a signal only in that it left soon, which it may have done anyway?

    Some seconds after a signal to end, with status 0; or at once, after one that may mean anything.
    """
    signal = obeyed(case) if case.blow is None else None
    if signal is None or case.death.exit_code == 128 + signal.what.sig:
        return False
    if signal.what.sig in ENDING - {1}:
        return case.at - signal.at > SOON and not by_runtime(case, signal)
    return not (by_runtime(case, signal) and case.foreign("stop", "restart"))


def deciding(case: Case) -> Seen[Signal] | None:
    """The signal that ended it: the blow, or the one it obeyed."""
    return case.blow or obeyed(case)


def _by(case: Case, *places: str | None) -> Clues:
    signal = deciding(case)
    if signal is None or not signal.what.sent:
        return ()
    if place(case, signal) not in places:
        return ()
    clues = [Clue(signal.n, "trace", _says(signal))]
    seen = case.sender_of(signal)
    if seen is not None:
        clues.append(Clue(seen.n, "sender", f"its sender was {_PLACES[seen.what.place]}"))
    return tuple(clues)


_PLACES = {
    "same-container": "a process of the same container",
    "other-container": "a process of another container",
    "engine": "made by the engine",
    "host": "a process of the machine",
}


def _says(signal: Seen[Signal]) -> str:
    return f"process {signal.what.sender} ({name_of(signal)}) sent it signal {signal.what.sig}"


def name_of(signal: Seen[Signal]) -> str:
    """What its sender calls itself, which proves nothing; fit to be printed."""
    name = "".join(ch if ch.isprintable() else "?" for ch in signal.what.sender_name)
    return name or "nameless"


def by_engine(case: Case) -> Clues:
    """the deadly signal came from the engine's own processes"""
    found = _by(case, "engine")
    if found:
        return found
    signal = deciding(case)
    if (
        signal is not None
        and signal.what.code == 0
        and place(case, signal) is None
        and (signal.what.sender_name in RUNTIMES)
    ):
        return (Clue(signal.n, "trace", _says(signal) + " under a runtime's name"),)
    return ()


def by_engine_surely(case: Case) -> Clues:
    """the deadly signal came from the engine's own processes"""
    return _by(case, "engine")


def by_host(case: Case) -> Clues:
    """the deadly signal came from a process of the machine, outside every container"""
    return _by(case, "host")


def by_other_container(case: Case) -> Clues:
    """the deadly signal came from a process of another container"""
    return _by(case, "other-container")


def by_inside(case: Case) -> Clues:
    """the deadly signal came from a process of the same container"""
    signal = deciding(case)
    if signal is not None and case.main is not None and signal.what.sender == case.main.pid:
        return ()  # what it does to itself is its own end
    return _by(case, "same-container")


def from_outside_unseen(case: Case) -> Clues:
    """SIGKILL reached the container's init, which nothing inside it can do"""
    signal = case.blow
    if signal is None or not signal.what.sent or not outside(case, signal):
        return ()
    if place(case, signal) is not None or signal.what.sender_name in RUNTIMES:
        return ()
    return (Clue(signal.n, "trace", _says(signal)),)


def in_kernel_group(case: Case) -> Clues:
    """SIGKILL was raised by way of the cgroup (no thread group addressed), not by kill()"""
    signal = case.blow
    if signal is None or signal.what.sig != 9 or signal.what.code != 0 or signal.what.group:
        return ()
    return (Clue(signal.n, "trace", "SIGKILL was raised for the cgroup, by its file cgroup.kill"),)


def any_user_signal(case: Case) -> Clues:
    """somebody sent it a signal it could obey"""
    signal = deciding(case)
    if signal is None or not signal.what.sent:
        return ()
    if case.main is not None and signal.what.sender == case.main.pid:
        return ()
    return (Clue(signal.n, "trace", _says(signal)),)


def _strange(signal: Signal) -> bool:
    """Is one that no process sent still not the program's own? A terminal hung up, or a forged code."""
    return signal.sig in _OF_A_TERMINAL if signal.code == SI_KERNEL else signal.code < 0


def _remembered(sig: int) -> int:
    """How long before an end a signal of this number may have been its reason, ns."""
    if sig in ENDING | {9}:
        return 3 * OBEY
    return AT_ONCE // 3 if sig in HARMLESS else 3 * AT_ONCE // 2


def earlier_signal(case: Case) -> Clues:
    """somebody had sent it a signal shortly before"""
    main = case.main
    if main is None:
        return ()
    traced = tuple(
        Clue(s.n, "trace", _says(s))
        for s in case.to_main
        if s.what.result == DELIVERED
        and (s.what.sender != main.pid if s.what.sent else _strange(s.what))
        and -KERNEL <= case.at - s.at <= _remembered(s.what.sig)
    )
    # Of a signal whose trace line was lost its sender may still have been seen; whether it
    # was delivered is then not known.
    lines = {(s.what.sig, s.what.sender) for s in case.to_main}
    return traced or tuple(
        Clue(s.n, "sender", f"process {s.what.pid} sent it signal {s.what.signal}")
        for s in case.history.senders
        if s.what.to == main.pid
        and s.what.pid != main.pid
        and (s.what.signal, s.what.pid) not in lines
        and -KERNEL <= case.at - s.at <= _remembered(s.what.signal)
    )


def raw_status(case: Case) -> Clues:
    """its raw wait status"""
    status = case.death.wait_status
    if status is None or case.main is None:
        return ()
    words = (
        f"it was killed by signal {status & 0x7F}"
        if status & 0x7F
        else f"it left with status {status >> 8 & 0xFF}"
    )
    return tuple(
        Clue(p.n, "proc", words)
        for p in case.history.procs
        if p.what.what == "exit"
        and p.what.pid == case.main.pid
        and p.what.status == status
        and p.n in case.ending.witnesses
    )


def end_seen(case: Case) -> Clues:
    """who saw its end"""
    by_number = dict(zip(case.ending.witnesses, case.ending.sources, strict=False))
    return tuple(Clue(n, s, f"{s} saw the main process end") for n, s in by_number.items())


def sender(case: Case) -> Sender | None:
    """Who sent the deadly signal, for the verdict."""
    signal = deciding(case)
    if signal is None:
        return None
    pid, name = signal.what.sender, signal.what.sender_name
    if signal.what.code > 0:
        return Sender(SenderKind.KERNEL)
    if not signal.what.sent:
        return None
    where = place(case, signal)
    kind = {
        "same-container": SenderKind.INSIDE,
        "other-container": SenderKind.OTHER_CONTAINER,
        "host": SenderKind.HOST_PROCESS,
        "engine": SenderKind.ENGINE,
    }.get(where or "")
    if kind is None:
        if signal.what.sender_name in RUNTIMES and kill_events(case):
            return Sender(SenderKind.API, pid, name)
        return None
    if kind is SenderKind.ENGINE and kill_events(case):
        kind = SenderKind.API
    return Sender(kind, pid, name)


def kill_events(case: Case) -> Clues:
    """the engine was told by somebody else to signal it"""
    signal = deciding(case)
    found = []
    for s in case.foreign("kill"):
        number = s.what.signal
        if signal is not None:
            # The event is written once the runtime has come back: after the signal, give or take.
            if number is not None and number != signal.what.sig:
                continue
            if s.at + s.error + ENGINE < signal.at:
                continue
        found.append(
            Clue(s.n, "docker", f"somebody else told the engine to send signal {number or '?'}")
        )
    return tuple(found)


def heeded_kills(case: Case) -> Clues:
    """the engine was told by somebody else to signal it, and the signal was not ignored"""
    ignored = {
        s.what.sig
        for s in case.to_main
        if s.what.result == IGNORED
        and not any(o.what.sig == s.what.sig and o.what.result == DELIVERED for o in case.to_main)
    }
    numbers = {s.n: s.what.signal for s in case.foreign("kill")}
    return tuple(c for c in kill_events(case) if numbers.get(c.n) not in ignored)
