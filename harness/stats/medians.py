"""The median and what it may be, without assuming a distribution.

Rule: latencies and ratios have long tails, so nothing here uses a mean. The interval
is made of order statistics: the number of values below the true median is binomial
with one half, whatever the distribution.
"""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value with at least a share q of all at or below it.

    >>> quantile([3, 1, 2, 4], 0.5), quantile([3, 1, 2, 4], 0.99)
    (2, 4)
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    need = q * len(ordered)
    return ordered[max(0, min(len(ordered) - 1, -int(-need // 1) - 1))]


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two.

    >>> median([3, 1, 2]), median([4, 1, 2, 3])
    (2, 2.5)
    """
    ordered = sorted(values)
    half, odd = divmod(len(ordered), 2)
    return ordered[half] if odd else (ordered[half - 1] + ordered[half]) / 2


def median_interval(values: Sequence[float], alpha: float = 0.05) -> tuple[float, float]:
    """Two order statistics that hold the true median between them with chance >= 1 - alpha.

    With fewer than six values (at 95 %) no pair does: then the smallest and the largest.

    >>> median_interval(list(range(1, 11)))
    (2, 9)
    """
    ordered = sorted(values)
    n = len(ordered)
    tail, below = 0.0, 0
    for k in range(n // 2):
        tail += comb(n, k) / 2**n
        if 2 * tail > alpha:
            break
        below = k
    return ordered[below], ordered[n - 1 - below]
