"""What changed between two campaigns (or two groups of them), cell by cell and overall.

Law: counts come from `tally`, decisions from `stats.compare`; here they are put side by
side. "Changed" always means after the correction for many cells. Nothing is called
better or worse that the tests do not carry.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.errors import ExitCode
from harness.model.verdicts import Hypothesis
from harness.report import tally
from harness.stats import compare as tests

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harness.report.tally import Tally

FORMAT = "deathbench.compare/1"
WORSE, BETTER = "worse", "better"


@dataclass(slots=True)
class Counts:
    """One cell on one side, over all campaigns of that side."""

    config: dict[str, Any]
    died: int = 0
    observed: int = 0
    hypotheses: dict[str, int] = field(default_factory=dict)
    blocks: dict[tuple[int, int], list[int]] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return {"died": self.died, "trials": self.observed, "hypotheses": self.hypotheses}


@dataclass(frozen=True, slots=True)
class Cell:
    """One configuration that both sides have.

    Attributes:
        p: Boschloo, two-sided, for this cell alone.
        q: After Benjamini-Hochberg over all cells.
        direction: "worse", "better" or None where nothing is shown.
    """

    config: dict[str, Any]
    a: Counts
    b: Counts
    difference: tuple[float, float, float]
    p: float
    q: float
    direction: str | None
    upper: float

    def document(self) -> dict[str, Any]:
        point, low, high = self.difference
        return {
            "config": self.config,
            "a": self.a.document(),
            "b": self.b.document(),
            "difference": {"point": point, "low": low, "high": high},
            "p": self.p,
            "q": self.q,
            "changed": self.direction is not None,
            "direction": self.direction,
            "upper": self.upper,
        }


@dataclass(frozen=True, slots=True)
class OfHypothesis:
    """One hypothesis over all cells, stratified."""

    hypothesis: str
    a: int
    b: int
    pooled: tests.Pooled
    q: float | None
    direction: str | None

    def document(self) -> dict[str, Any]:
        return {
            "hypothesis": self.hypothesis,
            "a": self.a,
            "b": self.b,
            **self.pooled.document(),
            "q": self.q,
            "changed": self.direction is not None,
            "direction": self.direction,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """The whole answer.

    Attributes:
        only_a, only_b: Configurations that the other side does not have.
        margin: "Not worse by more than this", asked for or not.
        upper: The one-sided 95 % upper bound of the pooled difference.
        level: Of the tests, after correction.
        paired: Both sides ran in the same blocks of one campaign.
    """

    a: tuple[str, ...]
    b: tuple[str, ...]
    environment: list[dict[str, Any]]
    cells: tuple[Cell, ...]
    only_a: tuple[dict[str, Any], ...]
    only_b: tuple[dict[str, Any], ...]
    overall: tests.Pooled
    hypotheses: tuple[OfHypothesis, ...]
    level: float
    margin: float | None
    upper: float | None
    paired: bool

    @property
    def stratified_by(self) -> str:
        """What the pooled test keeps apart."""
        return "cell and block" if self.paired else "cell"

    @property
    def direction(self) -> str | None:
        """Over all cells together."""
        p, difference = self.overall.p, self.overall.difference
        return _direction(p, difference or 0.0, self.level)

    @property
    def worse(self) -> bool:
        """Some cell, some hypothesis or all cells together got worse."""
        found = [c.direction for c in self.cells] + [h.direction for h in self.hypotheses]
        return WORSE in [*found, self.direction]

    @property
    def no_regression(self) -> bool | None:
        """Whether a rise of `margin` is ruled out; None when no margin was stated."""
        if self.margin is None:
            return None
        return self.upper is not None and self.upper < self.margin

    @property
    def exit(self) -> ExitCode:
        """4: something got worse; 2: nothing to compare, or the margin is not shown."""
        if self.worse:
            return ExitCode.WORSE
        if not self.cells or self.no_regression is False:
            return ExitCode.INCONCLUSIVE
        return ExitCode.OK

    def document(self) -> dict[str, Any]:
        """The `compare` document of `--json`."""
        return {
            "format": FORMAT,
            "a": list(self.a),
            "b": list(self.b),
            "exit": int(self.exit),
            "environment": self.environment,
            "cells": [c.document() for c in self.cells],
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "overall": {
                **self.overall.document(),
                "direction": self.direction,
                "stratified_by": self.stratified_by,
                "upper": self.upper,
                "margin": self.margin,
                "no_regression": self.no_regression,
            },
            "hypotheses": [h.document() for h in self.hypotheses],
            "level": self.level,
        }


def build(
    a: Sequence[tuple[str, Tally]],
    b: Sequence[tuple[str, Tally]],
    *,
    environment: Sequence[dict[str, Any]] = (),
    level: float = 0.05,
    margin: float | None = None,
    only: Mapping[str, Any] | None = None,
    paired: bool = False,
    drop: Iterable[str] = (),
) -> Comparison:
    """Two groups of campaigns → comparison.

    Args:
        a, b: (name, counts) of each campaign; the counts of a group are added up.
        only: Axis → value: leave out every other cell.
        paired: Both sides ran in the same blocks (one interleaved campaign): strata are
            cells within blocks then, and drift cancels.
        drop: Axes that tell the two sides apart and are no part of a cell.
    """
    dropped = frozenset(drop)
    side_a, side_b = _side(a, only or {}, dropped), _side(b, only or {}, dropped)
    both = [key for key in side_a if key in side_b]
    both.sort(key=lambda key: tally.place(side_a[key].config))
    raw = [(side_a[key], side_b[key]) for key in both]
    p_values = [tests.boschloo(x.died, x.observed, y.died, y.observed) for x, y in raw]
    # A cell that nobody could have seen change is no test and takes no share of the level.
    asked = [i for i, (x, y) in enumerate(raw) if x.observed and y.observed]
    corrected = dict(
        zip(asked, tests.benjamini_hochberg([p_values[i] for i in asked]), strict=True)
    )
    cells = tuple(
        _cell(x, y, p_values[i], corrected.get(i, 1.0), level) for i, (x, y) in enumerate(raw)
    )
    strata = [s for x, y in raw for s in _strata(x, y, None, paired=paired)]
    overall = tests.mantel_haenszel(strata)
    return Comparison(
        a=tuple(name for name, _ in a),
        b=tuple(name for name, _ in b),
        environment=list(environment),
        cells=cells,
        only_a=tuple(side_a[k].config for k in side_a if k not in side_b),
        only_b=tuple(side_b[k].config for k in side_b if k not in side_a),
        overall=overall,
        hypotheses=tuple(_by_hypothesis(raw, level, paired=paired)),
        level=level,
        margin=margin,
        upper=_upper(raw, strata),
        paired=paired,
    )


def _key(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True, default=str)


def _side(
    campaigns: Sequence[tuple[str, Tally]], only: Mapping[str, Any], drop: frozenset[str]
) -> dict[str, Counts]:
    result: dict[str, Counts] = {}
    for index, (_, counted) in enumerate(campaigns):
        for cell in counted.cells.values():
            if any(cell.config.get(key) != value for key, value in only.items()):
                continue
            config = {k: v for k, v in cell.config.items() if k not in drop}
            into = result.setdefault(_key(config), Counts(config))
            into.died += cell.died
            into.observed += cell.observed
            for hypothesis, n in cell.hypotheses.items():
                into.hypotheses[hypothesis] = into.hypotheses.get(hypothesis, 0) + n
            for block, (died, observed) in cell.blocks.items():
                pair = into.blocks.setdefault((index, block), [0, 0])
                pair[0] += died
                pair[1] += observed
    return result


def _direction(p: float | None, difference: float, level: float) -> str | None:
    if p is None or p > level or difference == 0:
        return None
    return WORSE if difference > 0 else BETTER


def _cell(x: Counts, y: Counts, p: float, q: float, level: float) -> Cell:
    difference = tests.newcombe(x.died, x.observed, y.died, y.observed)
    return Cell(
        config=x.config,
        a=x,
        b=y,
        difference=difference,
        p=p,
        q=q,
        direction=_direction(q, difference[0], level),
        upper=tests.upper_difference(x.died, x.observed, y.died, y.observed),
    )


def _strata(
    x: Counts, y: Counts, hypothesis: str | None, *, paired: bool
) -> Iterable[tests.Stratum]:
    if hypothesis is not None:
        yield tests.Stratum(
            x.hypotheses.get(hypothesis, 0), x.observed, y.hypotheses.get(hypothesis, 0), y.observed
        )
    elif paired:
        for block in dict.fromkeys([*x.blocks, *y.blocks]):
            one, other = x.blocks.get(block, [0, 0]), y.blocks.get(block, [0, 0])
            yield tests.Stratum(one[0], one[1], other[0], other[1])
    else:
        yield tests.Stratum(x.died, x.observed, y.died, y.observed)


def _by_hypothesis(
    raw: Sequence[tuple[Counts, Counts]], level: float, *, paired: bool
) -> Iterable[OfHypothesis]:
    found: list[tuple[str, int, int, tests.Pooled]] = []
    for h in Hypothesis:
        before = sum(x.hypotheses.get(h.value, 0) for x, _ in raw)
        after = sum(y.hypotheses.get(h.value, 0) for _, y in raw)
        if before or after:
            strata = [s for x, y in raw for s in _strata(x, y, h.value, paired=paired)]
            found.append((h.value, before, after, tests.mantel_haenszel(strata)))
    tested = [i for i, one in enumerate(found) if one[3].p is not None]
    q = dict(
        zip(
            tested,
            tests.benjamini_hochberg([found[i][3].p or 0.0 for i in tested]),
            strict=True,
        )
    )
    for i, (name, before, after, pooled) in enumerate(found):
        direction = _direction(q.get(i), pooled.difference or 0.0, level)
        yield OfHypothesis(name, before, after, pooled, q.get(i), direction)


def _upper(raw: Sequence[tuple[Counts, Counts]], strata: Sequence[tests.Stratum]) -> float | None:
    """One-sided 95 %: Miettinen-Nurminen for one cell, Mantel-Haenszel for several."""
    filled = [(x, y) for x, y in raw if x.observed and y.observed]
    if not filled:
        return None
    if len(filled) == 1:
        x, y = filled[0]
        return tests.upper_difference(x.died, x.observed, y.died, y.observed)
    if not any(x.died or y.died for x, y in filled):
        total = [sum(v) for v in zip(*((x.observed, y.observed) for x, y in filled), strict=True)]
        return tests.upper_difference(0, total[0], 0, total[1])
    return tests.mantel_haenszel(strata, alpha=0.10).high
