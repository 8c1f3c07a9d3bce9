"""The race: an exec that fell into the harness's own planned stop.

Rule: the stop is ours, the refusal is the engine's, and both their times are known: the
exec was asked for before the next start, or was under way when the stop came. What
somebody else stopped is no race of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.attribution.sentence import plain
from harness.model.verdicts import Certainty, Hypothesis, Rejected, Verdict
from harness.parse.execs import DEATH_TEXTS, is_engine_text, parse_exec_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.deaths import Ending
    from harness.history import Attempt, History

IN_A_STOP = DEATH_TEXTS | {"restarting", "no-such-container", "no-such-exec", "no-task"}
LATE = 1_000_000_000
"""An exec on a removed container's id can be asked for a little after its successor started."""


@dataclass(frozen=True, slots=True)
class Race:
    """The planned end, the exec that met it, and the verdict."""

    ending: Ending
    attempt: Attempt
    verdict: Verdict


def refused_in_planned_stop(history: History, ends: Sequence[Ending]) -> Race | None:
    """The first exec of the pre-task that our own planned stop refused or ended."""
    for attempt in history.attempts:
        if attempt.label != "pre-task" or attempt.end is None or not stopped_by_the_end(attempt):
            continue
        for ending in ends:
            if ending.by is None or ending.death.container != attempt.container:
                continue
            begin, end = ending.by.begin, _next_start(history, ending)
            if attempt.begin <= end and attempt.end >= begin:
                return Race(ending, attempt, _verdict(history, ending, attempt, end))
    return None


def stopped_by_the_end(attempt: Attempt) -> bool:
    """Is its answer one that a stopping, stopped or removed container gives?"""
    if attempt.exit_code == 137:
        return True
    text = attempt.error or ""
    if not text and attempt.exit_code in (126, 255) and is_engine_text(attempt.output):
        text = attempt.output
    fault = parse_exec_error(text, attempt.http)
    return fault is not None and fault.what in IN_A_STOP


def _next_start(history: History, ending: Ending) -> int:
    """When there was something to exec in again: the same container's next start, or its successor's."""
    if ending.run.until is not None:
        return ending.run.until
    starts = [
        m.begin
        for m in history.mains
        if m.begin > ending.death.at and _subject(history, m.container)
    ]
    starts += [
        s.at
        for s in history.engine
        if s.what.type == "container"
        and s.what.action == "start"
        and s.at > ending.death.at
        and _subject(history, s.what.id)
    ]
    if starts:
        return min(starts) + LATE
    end = ending.by.end if ending.by is not None else None
    span = history.phase("remount") or history.phase("overlap")
    return max(
        end or history.end, span.end if span is not None and span.end is not None else history.end
    )


def _subject(history: History, container: str) -> bool:
    return any(c.id == container for c in history.subjects)


def _verdict(history: History, ending: Ending, attempt: Attempt, end: int) -> Verdict:
    call = ending.by
    assert call is not None
    cites = {call.n, *attempt.cites, *ending.witnesses[:2]}
    if call.answer_n is not None:
        cites.add(call.answer_n)
    told = attempt.error or attempt.output or f"exit code {attempt.exit_code}"
    inside = (attempt.begin - call.begin) / 1e6
    return Verdict(
        hypothesis=Hypothesis.RACE,
        cause="remount-race",
        certainty=Certainty.CERTAIN,
        path=("remount-race", "exec-refused"),
        sender=None,
        cites=tuple(sorted(cites)),
        rejected=(Rejected("docker-stop", "the request to stop it was the harness's own"),),
        runner_up=None,
        grade=history.grade(),
        sentence=plain(
            f"The pre-task was asked for {inside:.1f} ms after the harness's own {call.call} of container "
            f"{ending.death.container[:12]} began, before it ran again, and got: {told[:200]} [{attempt.answer_n or attempt.n}]."
        ),
    )
