"""Deaths called otherwise than a race that come and go with the delay all the same.

Law: a death whose rate depends on when the exec came is not explained by a cause that knows
nothing of the exec. The table says so; it changes no verdict, and it says nothing where the
number of trials depended on what was seen, since the test would not be honest there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.model.verdicts import Hypothesis
from harness.report import words
from harness.stats import dependence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.report.table import Row

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Dependence:
    """One hypothesis along one delay.

    Attributes:
        p: Among all tests of this table (Holm).
        doses: (value, deaths of this hypothesis, observed), all other settings together.
    """

    axis: str
    hypothesis: str
    p: float
    doses: tuple[tuple[Any, int, int], ...]

    @property
    def flagged(self) -> bool:
        return self.p < ALPHA

    def document(self) -> dict[str, Any]:
        return {
            "axis": self.axis,
            "hypothesis": self.hypothesis,
            "p": self.p,
            "flagged": self.flagged,
            "doses": [{"value": v, "died": d, "trials": n} for v, d, n in self.doses],
        }


def find(rows: Sequence[Row]) -> tuple[Dependence, ...]:
    """Every hypothesis but race that killed, along every axis that is a delay."""
    axes = dict.fromkeys(k for row in rows for k in row.config if k.partition(".")[0] == "delay")
    killers = [
        h.value
        for h in Hypothesis
        if h is not Hypothesis.RACE and any(row.hypotheses.get(h.value) for row in rows)
    ]
    tested = [
        (axis, killer, p)
        for axis in axes
        for killer in killers
        if (p := dependence.test(_strata(rows, axis, killer))) is not None
    ]
    adjusted = dependence.holm([p for _, _, p in tested])
    return tuple(
        Dependence(axis, killer, p, _doses(rows, axis, killer))
        for (axis, killer, _), p in zip(tested, adjusted, strict=True)
    )


def line(found: Dependence) -> str:
    """One sentence: what depends on which delay, how surely, and the counts."""
    short = Hypothesis(found.hypothesis).short
    counts = ", ".join(f"{words.value(found.axis, v)} {d}/{n}" for v, d, n in found.doses)
    return (
        f"deaths called {short} depend on the {found.axis} (p {max(found.p, 0.0001):.2g}): "
        f"{counts}; what kills them may race with the exec"
    )


def _strata(rows: Sequence[Row], axis: str, killer: str) -> list[list[tuple[int, int]]]:
    groups: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        if axis in row.config:
            fixed = {k: v for k, v in row.config.items() if k != axis}
            groups.setdefault(json.dumps(fixed, sort_keys=True, default=str), []).append(
                (row.hypotheses.get(killer, 0), row.observed)
            )
    return list(groups.values())


def _doses(rows: Sequence[Row], axis: str, killer: str) -> tuple[tuple[Any, int, int], ...]:
    sums: dict[str, list[Any]] = {}
    for row in rows:
        if axis in row.config and row.observed:
            key = json.dumps(row.config[axis], sort_keys=True, default=str)
            entry = sums.setdefault(key, [row.config[axis], 0, 0])
            entry[1] += row.hypotheses.get(killer, 0)
            entry[2] += row.observed
    return tuple((v, d, n) for v, d, n in sums.values())
