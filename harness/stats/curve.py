"""Dose and response: the death rate along a swept number, with its band.

Law: counts in, curve out. The rate is a logistic function of the dose with a floor and a
ceiling of its own, rising or falling; all such curves on a grid are weighed by how well
they explain the counts, and none is picked. A dose that spans more than a decade is
taken by its logarithm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTHS = (0.004, 0.015, 0.04, 0.1, 0.25)
_FLOORS = (0.001, 0.01, 0.03, 0.08, 0.2)
_CEILINGS = (0.05, 0.12, 0.22, 0.35, 0.5, 0.65, 0.8, 0.93, 0.995)
_POINTS = 41
LEAST = 3
"""Doses: a curve through two points is no curve."""


@dataclass(frozen=True, slots=True)
class Dose:
    """One swept value with its counts."""

    value: float
    died: int
    observed: int


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where the rate passes a level; None where the band never or always is beyond it."""

    level: float
    point: float | None
    low: float | None
    high: float | None
    chance: float

    def document(self) -> dict[str, Any]:
        return {
            "level": self.level, "point": self.point, "low": self.low, "high": self.high,
            "chance": self.chance,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Curve:
    """Rates on a line of doses: mean and 95 % band of the posterior."""

    doses: tuple[Dose, ...]
    at: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    falling: float
    crossing: Crossing
    logarithmic: bool

    def document(self) -> dict[str, Any]:
        return {
            "doses": [{"value": d.value, "died": d.died, "trials": d.observed} for d in self.doses],
            "curve": [
                {"value": x, "rate": {"point": m, "low": lo, "high": hi, "method": "logistic"}}
                for x, m, lo, hi in zip(self.at, self.mean, self.low, self.high, strict=True)
            ],
            "falling": self.falling,
            "crossing": self.crossing.document(),
        }


def fit(doses: Sequence[Dose], level: float) -> Curve:
    """The curve through the counts, and where it crosses `level`.

    Raises:
        ValueError: fewer than three different doses.
    """
    import numpy as np

    ordered = tuple(sorted(doses, key=lambda d: d.value))
    values = [d.value for d in ordered]
    if len(set(values)) < LEAST:
        raise ValueError(f"{len(set(values))} doses")
    logarithmic = values[0] > 0 and values[-1] / values[0] > 10
    scaled = np.array([math.log(v) if logarithmic else v for v in values])
    first, last = scaled[0], scaled[-1]
    line = np.linspace(0.0, 1.0, _POINTS)
    at = (scaled - first) / (last - first)
    shapes = np.array(
        [
            (middle, width, low, high, sign)
            for middle in np.linspace(-0.15, 1.15, 53)
            for width in _WIDTHS
            for low in _FLOORS
            for high in _CEILINGS
            if high > low
            for sign in (1.0, -1.0)
        ]
    )

    def rates(x: Any) -> Any:
        m, w, low, high, sign = (shapes[:, i][:, None] for i in range(5))
        slope = np.clip(sign * (x[None, :] - m) / w, -60, 60)
        return low + (high - low) / (1 + np.exp(-slope))

    # On the line, and exactly at the doses for the likelihood.
    there = np.clip(rates(at), 1e-6, 1 - 1e-6)
    died = np.array([d.died for d in ordered], dtype=float)
    observed = np.array([d.observed for d in ordered], dtype=float)
    logs = np.log(there) @ died + np.log1p(-there) @ (observed - died)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    keep = weights > 1e-9
    shapes, weights = shapes[keep], weights[keep] / weights[keep].sum()
    shown = rates(line)
    mean = weights @ shown
    low, high = _band(shown, weights, 0.025), _band(shown, weights, 0.975)

    def dose(x: float) -> float:
        scaled_back = float(first + x * (last - first))
        return math.exp(scaled_back) if logarithmic else scaled_back

    return Curve(
        doses=ordered,
        at=tuple(dose(float(x)) for x in line),
        mean=tuple(float(x) for x in mean),
        low=tuple(low),
        high=tuple(high),
        falling=float(weights[shapes[:, 4] < 0].sum()),
        crossing=_crossing(shown, weights, line, level, dose),
        logarithmic=logarithmic,
    )


def _band(shown: Any, weights: Any, share: float) -> list[float]:
    import numpy as np

    found = []
    for column in shown.T:
        order = np.argsort(column)
        mass = np.cumsum(weights[order])
        found.append(float(column[order][min(int(np.searchsorted(mass, share)), len(mass) - 1)]))
    return found


def _crossing(shown: Any, weights: Any, line: Any, level: float, dose: Any) -> Crossing:
    """Median and 95 % of where the curves that do cross the level cross it."""
    import numpy as np

    above = shown >= level
    crosses = above[:, 0] != above[:, -1]
    chance = float(weights[crosses].sum())
    if chance < 0.5:
        return Crossing(level, None, None, None, chance)
    # The first change of side; between two points of the line, by straight interpolation.
    where = (above[crosses][:, 1:] != above[crosses][:, :-1]).argmax(1)
    left, right = (shown[crosses][np.arange(len(where)), where + i] for i in (0, 1))
    part = np.clip((level - left) / np.where(right == left, 1.0, right - left), 0.0, 1.0)
    places = line[where] + part * (line[1] - line[0])
    order = np.argsort(places)
    mass = np.cumsum(weights[crosses][order]) / chance
    found = [
        dose(float(places[order][min(int(np.searchsorted(mass, share)), len(mass) - 1)]))
        for share in (0.5, 0.025, 0.975)
    ]
    return Crossing(level, found[0], found[1], found[2], chance)
