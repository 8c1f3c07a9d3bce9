"""Clues of resource limits (ulimits): what they leave behind, which for most is nothing.

Rule: a limit that was hit tells its program by an error number and nobody else. RLIMIT_CPU
and RLIMIT_FSIZE raise a signal as well; of the others only its own last words are left. So
a low limit of which nothing was heard keeps others from saying that nothing was there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.attribution import lastwords
from harness.attribution.around import AT_ONCE, SHORTLY, children, left
from harness.attribution.table import Clue, Clues
from harness.history.clock import KERNEL
from harness.parse.trace import SI_KERNEL

if TYPE_CHECKING:
    from harness.attribution.case import Case

SIGXFSZ = 25

_PLENTY = {"nofile": 4096, "nproc": 4096, "stack": 8 << 20}
"""Limits from here on are what programs are used to."""

_SILENT = frozenset(
    {
        "nofile",
        "nproc",
        "stack",
        "fsize",
        "data",
        "memlock",
        "msgqueue",
        "sigpending",
        "locks",
        "as",
    }
)


def _limit(case: Case, name: str) -> int | None:
    """The soft limit that the engine was asked for; None: none, or unlimited, or plenty."""
    limits = case.ref.limits.get("Ulimits") if case.ref is not None else None
    for one in limits if isinstance(limits, list) else ():
        if isinstance(one, dict) and one.get("Name") == name:
            soft = one.get("Soft")
            if isinstance(soft, int) and 0 <= soft < _PLENTY.get(name, 1 << 62):
                return soft
    return None


def _named(case: Case, name: str, words: str) -> Clues:
    limit = _limit(case, name)
    if limit is None or case.ref is None:
        return ()
    return (Clue(case.ref.n, "config", f"{words} ({limit})"),)


def tight(case: Case) -> Clues:
    """it runs under a low resource limit, which tells nobody when it is hit"""
    for name in sorted(_SILENT):
        if found := _named(case, name, f"it runs under a low RLIMIT_{name.upper()}"):
            return found
    return ()


def few_processes(case: Case) -> Clues:
    """its user may have few processes, and its last words are of one that it could not make"""
    limit = _named(case, "nproc", "its user may have few processes")
    said = lastwords.said_no_fork(case) if limit else ()
    return (*said, *limit) if said else ()


def given_few_files(case: Case) -> Clues:
    """it was given a low limit of open files"""
    return _named(case, "nofile", "it may open few files")


def few_files(case: Case) -> Clues:
    """it may open few files, and its last words are of too many"""
    limit = _named(case, "nofile", "it may open few files")
    said = lastwords.said_no_files(case) if limit else ()
    return (*said, *limit) if said else ()


def file_too_large(case: Case) -> Clues:
    """the kernel raised SIGXFSZ in it, or in a child that it left because of"""
    main = case.main
    if main is None or _limit(case, "fsize") is None:
        return ()
    dead = {
        p.what.pid: p
        for p in children(case)
        if p.what.status is not None
        and p.what.status & 0x7F == SIGXFSZ
        and (case.left_with == 128 + SIGXFSZ or case.at - p.at <= AT_ONCE)
    }
    said = lastwords.said_too_large(case)
    clues = [
        Clue(
            s.n,
            "trace",
            f"the kernel raised SIGXFSZ in process {s.what.pid}: a file grew too large",
        )
        for s in case.history.signals
        if s.what.sig == SIGXFSZ
        and (s.what.code == SI_KERNEL or s.what.sender == s.what.pid)
        and case.at - (SHORTLY if said else AT_ONCE) <= s.at <= case.at + KERNEL
        and (s.what.pid in dead or s.what.pid == main.pid)
    ]
    if not clues:
        return ()
    clues += [
        Clue(p.n, "proc", f"its child {pid} was killed by signal {SIGXFSZ}")
        for pid, p in dead.items()
    ]
    return tuple(clues)


def killed_by_it(case: Case) -> Clues:
    """somebody was killed by SIGXFSZ, or left with the status of one that was"""
    if case.killed_by == SIGXFSZ or case.left_with == 128 + SIGXFSZ:
        return ended_by_it(case)
    return ()


def ended_by_it(case: Case) -> Clues:
    """its main process left with an error, or fell to SIGXFSZ itself"""
    if case.killed_by == SIGXFSZ:
        return tuple(
            Clue(p.n, "proc", f"the main process was killed by signal {SIGXFSZ}")
            for p in case.history.procs
            if p.n in case.ending.witnesses and p.what.status == case.death.wait_status
        )
    return left(case) if case.left_with else ()
