"""Verdicts against what was caused: right, unknown, wrong.

Rules. `unknown` is not wrong; a trial that could not be observed says nothing about the
verdicts and is counted apart; everything else that is not what was caused is wrong, the
outcome included: a survivor called dead is as wrong as a death called by another name.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from harness.model.causes import CAUSES
from harness.model.verdicts import Hypothesis
from harness.stats import intervals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harness.stats.intervals import Interval

RIGHT, UNKNOWN, WRONG, APART = "right", "unknown", "wrong", "apart"
NONE = "none"


@dataclass(frozen=True, slots=True)
class Truth:
    """What an experiment causes: its name, outcome and the causes that are right to say."""

    name: str
    outcome: str
    causes: tuple[str, ...] = ()

    @property
    def hypotheses(self) -> frozenset[str]:
        return frozenset(CAUSES[c].hypothesis.value for c in self.causes)


@dataclass(slots=True)
class Score:
    """One experiment's trials.

    Attributes:
        said: What was said, `outcome: cause`, and how often; `instead` of the truth.
        whys: Why nothing could be said, and how often.
    """

    truth: Truth
    right: int = 0
    unknown: int = 0
    wrong: int = 0
    apart: int = 0
    hypothesis_right: int = 0
    hypothesis_wrong: int = 0
    said: Counter[str] = field(default_factory=Counter)
    instead: Counter[str] = field(default_factory=Counter)
    whys: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def n(self) -> int:
        return self.right + self.unknown + self.wrong

    def document(self) -> dict[str, Any]:
        return {
            "cause": self.truth.name,
            "expected": list(self.truth.causes),
            "n": self.n,
            "right": self.right,
            "unknown": self.unknown,
            "wrong": self.wrong,
            "apart": self.apart,
            "right_rate": intervals.rate(self.right, self.n).document(),
            "said": dict(self.said),
            "seconds": median(self.seconds) if self.seconds else None,
        }


def grade(truth: Truth, line: Mapping[str, Any]) -> tuple[str, str, str]:
    """(right | unknown | wrong | apart, hypothesis said, cause said) of one judged trial.

    A broader cause of the right one ("memory-limit" for "memory-limit-main") claims less
    than the truth and nothing false: the cause is unknown, the hypothesis is right.
    """
    outcome = str(line.get("outcome"))
    verdict = line.get("verdict") or {}
    hypothesis, cause = str(verdict.get("hypothesis", NONE)), str(verdict.get("cause", NONE))
    if outcome in {"invalid", "unobserved"}:
        return (UNKNOWN if outcome == "unobserved" else APART), NONE, NONE
    if cause == "unknown":
        return UNKNOWN, hypothesis, cause
    if outcome != truth.outcome:
        return WRONG, hypothesis, cause
    if not truth.causes or cause in truth.causes:
        return RIGHT, hypothesis, cause
    if cause in {CAUSES[c].broader for c in truth.causes}:
        return UNKNOWN, hypothesis, cause
    return WRONG, hypothesis, cause


def _why(line: Mapping[str, Any]) -> str:
    """In one line, why a trial's verdict says less than the truth."""
    blind = ((line.get("verdict") or {}).get("grade") or {}).get("blind") or ()
    if blind:
        return "; ".join(dict.fromkeys(f"{b['source']} saw nothing: {b['why']}" for b in blind))
    return str(line.get("why") or "what the sources saw does not decide it")


@dataclass(slots=True)
class Accuracy:
    """All experiments of one self-test."""

    scores: dict[str, Score] = field(default_factory=dict)
    hypotheses: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, truth: Truth, line: Mapping[str, Any]) -> str:
        """Count one judged trial; what it was graded."""
        score = self.scores.setdefault(truth.name, Score(truth))
        graded, hypothesis, cause = grade(truth, line)
        setattr(score, graded, getattr(score, graded) + 1)
        if graded == APART:
            score.instead[f"invalid: {line.get('why')}"] += 1
            return graded
        score.said[f"{line.get('outcome')}: {cause}"] += 1
        if graded != RIGHT:
            score.instead[f"{line.get('outcome')}: {cause}"] += 1
        if graded == UNKNOWN:
            score.whys[_why(line)] += 1
        meant = truth.hypotheses or {NONE}
        score.hypothesis_right += hypothesis in meant
        score.hypothesis_wrong += hypothesis not in meant | {Hypothesis.UNKNOWN.value} and (
            graded == WRONG
        )
        if isinstance(seconds := line.get("seconds"), int | float):
            score.seconds.append(float(seconds))
        for one in meant if len(meant) == 1 else {hypothesis} & meant or {min(meant)}:
            self.hypotheses.setdefault(one, Counter())[hypothesis] += 1
        return graded

    def total(self, what: str) -> int:
        return sum(int(getattr(score, what)) for score in self.scores.values())

    @property
    def n(self) -> int:
        return self.total("n")

    def document(self) -> dict[str, Any]:
        """The part of the `selftest` document that is counted."""
        return {
            "n": self.n,
            "right": self.total("right"),
            "unknown": self.total("unknown"),
            "wrong": self.total("wrong"),
            "hypothesis_right": self.total("hypothesis_right"),
            "rates": {name: rate.document() for name, _, rate in self._shares()},
            "hypotheses": {k: dict(v) for k, v in sorted(self.hypotheses.items())},
            "causes": [s.document() for s in self.scores.values()],
            "not_seen": [
                {"cause": s.truth.name, "why": s.whys.most_common(1)[0][0]}
                for s in self.scores.values()
                if s.n and s.unknown == s.n
            ],
        }

    def text(self) -> str:
        """Both matrices and the shares with their intervals."""
        shares = [
            f"{name:17} {hits:5} of {self.n}"
            + (f"  {hits / self.n:.1%} [{rate.low:.1%}-{rate.high:.1%}]" if self.n else "")
            for name, hits, rate in self._shares()
        ]
        return "\n".join(
            [_hypotheses(self.hypotheses), "", _causes(self.scores.values()), "", *shares]
        )

    def _shares(self) -> list[tuple[str, int, Interval]]:
        """(what, how often, its share with the interval)."""
        counted = (
            ("hypothesis right", self.total("hypothesis_right")),
            ("cause right", self.total("right")),
            ("unknown", self.total("unknown")),
            ("wrong", self.total("wrong")),
        )
        return [(name, hits, intervals.rate(hits, self.n)) for name, hits in counted]


def _hypotheses(counts: Mapping[str, Counter[str]]) -> str:
    """Rows: what was caused; columns: what was said."""
    order = [h.value for h in Hypothesis] + [NONE]
    rows = [h for h in order if h in counts]
    columns = [h for h in order if any(counts[r][h] for r in rows)]
    short = {h.value: h.short for h in Hypothesis} | {NONE: "none"}
    body = [[short[r], *(counts[r][c] or "·" for c in columns)] for r in rows]
    return tabulate(body, ["caused \\ said", *(short[c] for c in columns)], "simple")


def _causes(scores: Iterable[Score]) -> str:
    body: list[Sequence[object]] = [
        [
            s.truth.name,
            s.n,
            s.right,
            _span(s),
            s.unknown or "",
            s.wrong or "",
            f"{median(s.seconds):.2f}" if s.seconds else "",
            "; ".join(f"{what} ({n})" for what, n in s.instead.most_common(3)),
        ]
        for s in scores
    ]
    return tabulate(
        body, ["caused", "n", "right", "[95%]", "unknown", "wrong", "s to verdict", "said instead"]
    )


def _span(score: Score) -> str:
    rate = intervals.rate(score.right, score.n)
    return f"{rate.low:.0%}-{rate.high:.0%}" if score.n else ""
