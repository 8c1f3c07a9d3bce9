"""From a history to its judgement: outcome first, then the verdict.

Rule: a death that somebody saw counts whatever else went wrong. Without one, survival
needs a positive witness at the end; whoever did not look says unobserved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.attribution import execs
from harness.attribution.around import disagreement
from harness.attribution.case import Case
from harness.attribution.channel import lost_channel
from harness.attribution.leaving import TRIGGERS
from harness.attribution.outcome import alive_at_end, why_unobserved
from harness.attribution.race import refused_in_planned_stop
from harness.attribution.rules import REQUESTS, RULES, SENDERS
from harness.attribution.senders import loosely
from harness.attribution.sentence import sentence
from harness.attribution.table import Held, hold
from harness.deaths import Ending, endings
from harness.errors import Bug
from harness.model.causes import CAUSES
from harness.model.verdicts import (
    Certainty,
    Hypothesis,
    Judgement,
    Outcome,
    Rejected,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.history import History

MOST_REJECTED = 6

_KERNEL = frozenset({"trace", "proc", "pidfd"})
"""Sources of a death that need no way to the engine."""

_BY_SIGNAL = frozenset(map(id, (*REQUESTS, *SENDERS)))


def judge(history: History, *, aborted: str | None = None) -> Judgement:
    """Outcome of one trial, with a verdict when it died or its exec failed.

    Args:
        aborted: Why the harness itself broke the trial off, if it did.
    """
    ends = endings(history)
    unplanned = [e for e in ends if not e.death.planned]
    lost = lost_channel(history)
    if lost is not None and not any(e.death.at_source in _KERNEL for e in unplanned):
        outcome, why = lost
        return Judgement(outcome, why=why)
    race = refused_in_planned_stop(history, ends)
    if unplanned and not (race is not None and race.ending.death.at <= unplanned[0].death.at):
        ending = unplanned[0]
        return Judgement(Outcome.DIED, ending.death, attribute(history, ending))
    if race is not None:
        return Judgement(Outcome.DIED, race.ending.death, checked(history, race.verdict))
    if aborted is not None:
        return Judgement(Outcome.INVALID, why=aborted)
    if not history.subjects:
        return Judgement(Outcome.INVALID, why="no container was made")
    failed = execs.failed(history)
    alive = alive_at_end(history)
    if failed is not None and (alive or execs.answered_by_the_living(history, failed)):
        return Judgement(
            Outcome.EXEC_FAILED, None, checked(history, execs.verdict(history, failed))
        )
    if alive:
        return Judgement(Outcome.SURVIVED)
    return Judgement(Outcome.UNOBSERVED, why=why_unobserved(history))


def attribute(history: History, ending: Ending) -> Verdict:
    """Why this main process ended."""
    case = Case(history, ending)
    held = [hold(rule, case) for rule in RULES]
    applying = [h for h in held if h.applies]
    chosen = applying[0] if applying else None
    if chosen is not None and (rival := _rival(chosen, applying)) is not None:
        return _unknown(case, held, f"{chosen.rule.cause} and {rival.rule.cause} both fit", chosen)
    if chosen is None:
        return _unknown(case, held, "no rule's evidence is there", None)
    return checked(history, _verdict(case, chosen, held))


def _rival(chosen: Held, applying: Sequence[Held]) -> Held | None:
    """Of the triggers none comes before another: two with different hypotheses do not decide."""
    if chosen.rule not in TRIGGERS:
        return None
    mine = CAUSES[chosen.rule.cause].hypothesis
    for other in applying[1:]:
        if other.rule in TRIGGERS and CAUSES[other.rule.cause].hypothesis is not mine:
            return other
    return None


def _verdict(case: Case, chosen: Held, held: Sequence[Held]) -> Verdict:
    rule = chosen.rule
    path = rule.path(case)
    disputed = case.find(disagreement)
    cites = tuple(sorted({clue.n for clue in (*chosen.clues, *disputed)}))
    return Verdict(
        hypothesis=CAUSES[rule.cause].hypothesis,
        cause=rule.cause,
        certainty=_as_sure(case, chosen),
        path=path,
        sender=rule.sender(case) if rule.sender is not None else None,
        cites=cites,
        rejected=_rejected(rule.cause, held, case),
        runner_up=_runner_up(rule.cause, held),
        grade=case.history.grade(),
        sentence=sentence(
            case, rule.cause, path, chosen.clues, _as_sure(case, chosen), disputed=disputed
        ),
    )


def _as_sure(case: Case, chosen: Held) -> Certainty:
    """Obedience that shows only in good manners makes nothing certain."""
    loose = id(chosen.rule) in _BY_SIGNAL and loosely(case)
    return Certainty.LIKELY if loose else chosen.certainty


def _unknown(case: Case, held: Sequence[Held], why: str, best: Held | None) -> Verdict:
    clues = best.clues if best is not None else ()
    cites = tuple(sorted({clue.n for clue in clues} | set(case.ending.witnesses[:2])))
    return checked(
        case.history,
        Verdict(
            hypothesis=Hypothesis.UNKNOWN,
            cause="unknown",
            certainty=Certainty.UNKNOWN,
            path=("unknown",),
            sender=None,
            cites=cites,
            rejected=_rejected("unknown", held, case),
            runner_up=best.rule.cause if best is not None else _runner_up("unknown", held),
            grade=case.history.grade(),
            sentence=sentence(case, "unknown", ("unknown",), clues, Certainty.UNKNOWN, why),
        ),
    )


def _rejected(cause: str, held: Sequence[Held], case: Case) -> tuple[Rejected, ...]:
    """Rules of which something was there, and why they are not it; the nearest first."""
    wide = CAUSES[cause].broader
    near = [h for h in held if not h.applies and h.near and h.rule.cause not in (cause, wide)]
    near.sort(key=lambda h: -h.met / len(h.rule.needs))
    found: dict[str, str] = {}
    for one in near:
        found.setdefault(one.rule.cause, one.missing or "")
    for suspect, why in _suspects(case, cause):
        found.setdefault(suspect, why)
    return tuple(Rejected(c, why) for c, why in found.items())[:MOST_REJECTED]


def _suspects(case: Case, cause: str) -> list[tuple[str, str]]:
    """What Docker's own words would make one believe."""
    found = []
    flagged = any(
        s.what.container == case.container and s.what.state is not None and s.what.state.oom_killed
        for s in case.history.looks
    )
    if flagged and not cause.startswith(("memory-limit", "vm-oom", "parent-cgroup")):
        found.append(
            (
                "memory-limit-main",
                "OOMKilled is set, but the main process was not the OOM killer's victim",
            )
        )
    if case.death.exit_code == 137 and case.left_with == 137:
        found.append(("docker-kill", "137 is a status it left with: it was not killed"))
    return [f for f in found if f[0] != cause]


def _runner_up(cause: str, held: Sequence[Held]) -> str | None:
    """The next that applies; else the one that lacks least."""
    for h in held:
        if h.applies and h.rule.cause != cause:
            return h.rule.cause
    near = [h for h in held if h.near and h.rule.cause != cause]
    if not near:
        return None
    return max(near, key=lambda h: h.met / len(h.rule.needs)).rule.cause


def checked(history: History, verdict: Verdict) -> Verdict:
    """The verdict, if all it cites is there and its words are of the closed lists."""
    from harness.model.causes import MECHANISMS

    absent = [n for n in verdict.cites if n not in history.numbers]
    if absent:
        raise Bug(f"the rule for {verdict.cause} cites events that do not exist: {absent}")
    strange = [s for s in verdict.path if s not in CAUSES and s not in MECHANISMS]
    if strange or verdict.cause not in CAUSES:
        raise Bug(
            f"the rule for {verdict.cause} says {strange or verdict.cause}, which is in no list"
        )
    return verdict
