"""The median and what it may be, without assuming a distribution.

Rule: latencies and ratios have long tails, so nothing here uses a mean. The interval
is made of order statistics: the number of values below the true median is binomial
with one half, whatever the distribution.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from math import comb, inf
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


def middle_interval(values: Sequence[float], alpha: float = 0.05) -> tuple[float, float, float]:
    """(low, middle, high) of a symmetric distribution: by the signed ranks of Wilcoxon.

    The middle is the median of the means of all pairs (Hodges and Lehmann); low and high
    hold the true one between them with chance >= 1 - alpha, exactly, wherever values err
    as often so far up as so far down. Under that assumption it needs two thirds of the
    values that `median_interval` needs. With fewer than six (at 95 %) nothing is known.

    >>> middle_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    (1.0, 3.5, 6.0)
    >>> middle_interval([1.0, 2.0])
    (-inf, 1.5, inf)
    """
    means = sorted((a + b) / 2 for a, b in combinations_with_replacement(values, 2))
    n = len(values)
    # ways[s]: subsets of the ranks 1..n with sum s; each is as likely as any other.
    ways = [1]
    for rank in range(1, n + 1):
        longer = ways + [0] * rank
        for total, count in enumerate(ways):
            longer[total + rank] += count
        ways = longer
    below, tail = 0, 0
    for total, count in enumerate(ways[: len(means) // 2]):
        tail += count
        if 2 * tail > alpha * 2**n:
            break
        below = total + 1
    if below == 0:
        return -inf, median(means), inf
    return means[below - 1], median(means), means[len(means) - below]
