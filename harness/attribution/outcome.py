"""Is it alive at the end? A positive witness, or nothing.

Rule: survival is something somebody saw: a status after the last exec that says running,
or an observer that watched the main process from before until the end without a gap and
saw it go on. That nothing was heard is neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.deaths import endings, runs, trial_end
from harness.parse.execs import is_engine_text, parse_exec_error

if TYPE_CHECKING:
    from harness.history import History

ALIVE = frozenset({"running", "paused"})


def alive_at_end(history: History) -> bool:
    """Was the latest subject seen alive when all was done?"""
    if not history.subjects:
        return False
    subject = history.subjects[-1].id
    limit = trial_end(history)
    end = history.end if limit is None else limit
    last = max((a.end or a.begin for a in history.attempts if a.label == "pre-task"), default=None)
    if last is None:
        last = max((s.begin for s in history.spans if s.phase != "clean"), default=history.begin)
    if any(
        e.death.container == subject and e.run is runs_last(history, subject)
        for e in endings(history)
    ):
        return False
    for seen in reversed(history.looks):
        look = seen.what
        if look.container == subject and look.state is not None and last <= seen.at <= end:
            if look.state.status in ALIVE and cut_off(history):
                break
            return look.state.status in ALIVE
    return watched_alive(history, subject, end) or stands_still(history, subject)


def runs_last(history: History, container: str) -> object:
    """Its last start, as the endings know it."""
    ends = [e for e in endings(history) if e.death.container == container]
    made = runs(history, container)
    if not made or not ends:
        return None
    return next((e.run for e in ends if e.run == made[-1]), None)


def cut_off(history: History) -> bool:
    """Could the engine not reach containerd when the pre-task was asked for?

    Who ended meanwhile is running for an engine that nobody can tell of it.
    """
    attempts = [a for a in history.attempts if a.label == "pre-task"]
    if not attempts or attempts[-1].exit_code != 126 or not is_engine_text(attempts[-1].output):
        return False
    fault = parse_exec_error(attempts[-1].output)
    return fault is not None and fault.what == "containerd-down"


def watched_alive(history: History, container: str, end: int) -> bool:
    """Did the tracer watch its last main process until the end, and not see it go?"""
    mains = history.mains_of(container)
    if not mains:
        return False
    return history.active("trace", mains[-1].begin, end)


PULSE = 1_500_000_000
"""The probe's last word comes at most a ping's distance before its machine stands still."""


def stands_still(history: History, container: str) -> bool:
    """Was it watched alive until its machine stood still? Nobody dies in a machine that does."""
    return any(
        s.what.what == "still"
        and s.what.until is None
        and watched_alive(history, container, s.at - PULSE)
        for s in history.host
    )


def why_unobserved(history: History) -> str:
    """Who was blind, in words."""
    grade = history.grade()
    dark = sorted({f"{b.source} ({b.why})" for b in grade.blind})
    if dark:
        return "nobody saw it alive at the end; blind: " + ", ".join(dark)
    return "nobody saw it alive at the end"
