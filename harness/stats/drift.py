"""Did the machine change while the trials ran? Deaths in the order in which they came.

Law: counts in order in, p values out. Each cell is compared with itself only, so that a
shuffled order of cells with different rates is no drift. Two tests: Cochran-Armitage's
trend for a slow slope, the CUSUM of what is left for a jump.

Trials of ordinary cells show a strong drift only (a rise from 5 to 20 % within 120 trials
in a third of cases); a control cell of a known rate near a half shows it much better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.stats.compare import normal_tail

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Fewer deaths or fewer survivors than this say nothing about an order.
FEW = 8

LEVEL = 0.01
"""Both tests run on every table, so they must not cry often."""


@dataclass(frozen=True, slots=True)
class Drift:
    """What the order says.

    Attributes:
        trend: p of Cochran-Armitage, two-sided, over all cells; None: too few deaths.
        cusum: p of the largest excursion of the summed residuals.
        direction: "more deaths later" or "fewer deaths later".
        at: Place (0-1 through the campaign) of the largest excursion: where it jumped.
    """

    trend: float | None
    cusum: float | None
    direction: str | None
    at: float | None
    trials: int

    @property
    def flagged(self) -> bool:
        """Either test, corrected for being two."""
        found = [p for p in (self.trend, self.cusum) if p is not None]
        return bool(found) and min(found) * len(found) <= LEVEL

    def document(self) -> dict[str, Any]:
        return {
            "trend": self.trend,
            "cusum": self.cusum,
            "direction": self.direction,
            "at": self.at,
            "trials": self.trials,
            "flagged": self.flagged,
        }


def test(cells: Iterable[tuple[Sequence[int], Sequence[int]]]) -> Drift:
    """cells: (places in the campaign's order, 1 where the trial died) of each cell."""
    import numpy as np

    places, residuals = [], []
    number = slope = variance = information = 0.0
    deaths = trials = 0
    for order, died in cells:
        n = len(order)
        k = int(sum(died))
        trials += n
        deaths += k
        if k in {0, n}:
            continue  # a cell that always does the same has no order
        t, x = np.asarray(order, dtype=float), np.asarray(died, dtype=float)
        rate = k / n
        rest = x - rate
        centred = t - t.mean()
        slope += float((rest * centred).sum())
        # The finite population's variance: the residuals add up to nothing by themselves.
        variance += rate * (1 - rate) * n / (n - 1) * float((centred**2).sum())
        information += n * rate * (1 - rate)
        places.append(t)
        residuals.append(rest)
        number += n
    if min(deaths, trials - deaths) < FEW or variance <= 0 or number < 2 * FEW:
        return Drift(None, None, None, None, trials)
    z = slope / math.sqrt(variance)
    order_all = np.argsort(np.concatenate(places), kind="stable")
    walk = np.cumsum(np.concatenate(residuals)[order_all])
    at = int(np.abs(walk).argmax())
    top = float(abs(walk[at])) / math.sqrt(information)
    return Drift(
        trend=min(1.0, 2 * normal_tail(abs(z))),
        cusum=kolmogorov(top),
        direction="more deaths later" if z > 0 else "fewer deaths later",
        at=(at + 1) / len(walk),
        trials=trials,
    )


def kolmogorov(x: float) -> float:
    """P(the largest distance of a Brownian bridge from 0 exceeds x).

    >>> round(kolmogorov(1.358), 3)
    0.05
    """
    if x < 0.2:
        return 1.0
    total = math.fsum((-1.0) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 60))
    return min(1.0, max(0.0, 2 * total))
