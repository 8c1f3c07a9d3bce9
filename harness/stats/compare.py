"""Did a rate change? Two groups of trials, one cell or many.

Law: counts in, numbers out. Group a is before, b is after; a difference is b - a. Written
with numpy alone: the libraries that have these tests take a second to import, some of
them are wrong (Miettinen-Nurminen in statsmodels 0.15 solves the wrong cubic) or stop at
a stratum without deaths. The tests hold each one against a library or brute force.

- one cell: Boschloo's exact test, Fisher's p maximised over the common rate. Uniformly
  more powerful than Fisher's: a tenth fewer trials.
- many cells: Benjamini-Hochberg over the cells; Cochran-Mantel-Haenszel for all at once,
  stratified by cell and block, so that a drifting machine can not fake a change.
- how much: Newcombe's interval for the difference, the Mantel-Haenszel pooled difference.
- "it did not get worse": the Miettinen-Nurminen upper bound of the difference, below a
  margin that is stated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from harness.stats import intervals

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Above this many tables the exact test costs seconds and differs from the score test in
# the third digit; where deaths are rare Fisher's exact test stands in instead.
_MOST_TABLES = 160_000
_RATES = 160
_FEW = 10.0


@dataclass(frozen=True, slots=True)
class Stratum:
    """One cell (and block) in both groups: deaths and observed trials."""

    a_died: int
    a: int
    b_died: int
    b: int


def normal_tail(z: float) -> float:
    """P(Z > z)."""
    return 0.5 * math.erfc(z / math.sqrt(2))


# --- one cell --------------------------------------------------------------------------


def boschloo(a_died: int, a: int, b_died: int, b: int) -> float:
    """Two-sided p of "both have one rate": twice the smaller one-sided p, at most 1.

    >>> round(boschloo(2, 20, 9, 20), 4)
    0.0167
    """
    _check(a_died, a, b_died, b)
    if a == 0 or b == 0 or a_died + b_died in {0, a + b}:
        return 1.0
    if (a + 1) * (b + 1) > _MOST_TABLES:
        return _large(a_died, a, b_died, b)
    # The side of the observed difference; the other one can not be the smaller.
    if a_died * b > b_died * a:
        return _one_sided(b_died, b, a_died, a)
    return _one_sided(a_died, a, b_died, b)


@lru_cache(maxsize=4096)
def _one_sided(x: int, n: int, y: int, m: int) -> float:
    """Twice the p of "y's rate is higher than x's"."""
    import numpy as np

    fisher = _fisher_table(n, m)
    region = fisher <= fisher[x, y] * (1 + 1e-9)

    def size(rates: Any) -> Any:
        first, second = _binomials(n, rates), _binomials(m, rates)
        return ((first @ region) * second).sum(1)

    grid = np.linspace(0, 1, _RATES + 1)[1:-1]
    sizes = size(grid)
    best = float(sizes.max())
    # The maximum lies near the best of the grid; the function has several hills, so the
    # three highest grid points are each looked at closely.
    step = grid[1] - grid[0]
    for at in np.argsort(sizes)[-3:]:
        near = np.linspace(max(grid[at] - step, 1e-9), min(grid[at] + step, 1 - 1e-9), 41)
        best = max(best, float(size(near).max()))
    return min(1.0, 2 * best)


@lru_cache(maxsize=8)
def _fisher_table(n: int, m: int) -> Any:
    """P(X <= x | x + y) for every table: small where the second group dies more."""
    import numpy as np

    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + m + 1)))])

    def choose(of: int, k: Any) -> Any:
        return log_factorial[of] - log_factorial[k] - log_factorial[of - k]

    x, y = np.arange(n + 1)[:, None], np.arange(m + 1)[None, :]
    table = np.exp(choose(n, x) + choose(m, y) - choose(n + m, x + y))
    # Sum along x + y = const: row x takes from row x - 1, one column to the right.
    for row in range(1, n + 1):
        table[row, :-1] += table[row - 1, 1:]
    return table


def _binomials(n: int, rates: Any) -> Any:
    """One row of probabilities of 0..n deaths per rate."""
    import numpy as np

    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)[None, :]
    p = np.asarray(rates)[:, None]
    choose = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    return np.exp(choose + k * np.log(p) + (n - k) * np.log1p(-p))


def _large(a_died: int, a: int, b_died: int, b: int) -> float:
    """Fisher's test where a cell of the table expects few, else the pooled score test."""
    died, total = a_died + b_died, a + b
    if min(died, total - died) * min(a, b) / total < _FEW:
        # The tail of the hypergeometric: few deaths, so few terms.
        low_side = a_died * b <= b_died * a
        x = a_died if low_side else a - a_died
        k = died if low_side else total - died
        # P(at most x of k fall into a), summed upwards from the smallest possible.
        first = max(0, k - b)
        p = sum(
            math.exp(_log_choose(a, i) + _log_choose(b, k - i) - _log_choose(total, k))
            for i in range(first, x + 1)
        )
        return min(1.0, 2 * p)
    return 2 * normal_tail(abs(score_z(a_died, a, b_died, b)))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def score_z(a_died: float, a: float, b_died: float, b: float) -> float:
    """The pooled score statistic of "no difference"; 0 where nothing can be said."""
    pooled = (a_died + b_died) / (a + b)
    variance = pooled * (1 - pooled) * (1 / a + 1 / b)
    return 0.0 if variance <= 0 else (b_died / b - a_died / a) / math.sqrt(variance)


def newcombe(
    a_died: int, a: int, b_died: int, b: int, alpha: float = 0.05
) -> tuple[float, float, float]:
    """(difference b - a, low, high): Newcombe's hybrid of two Wilson intervals.

    >>> [round(x, 3) for x in newcombe(2, 20, 9, 20)]
    [0.35, 0.072, 0.57]
    """
    _check(a_died, a, b_died, b)
    if a == 0 or b == 0:
        return 0.0, -1.0, 1.0
    p, q = a_died / a, b_died / b
    low_p, high_p = intervals.wilson(a_died, a, alpha)
    low_q, high_q = intervals.wilson(b_died, b, alpha)
    point = q - p
    low = point - math.hypot(q - low_q, high_p - p)
    high = point + math.hypot(high_q - q, p - low_p)
    return point, max(-1.0, low), min(1.0, high)


# --- it did not get worse ----------------------------------------------------------------


def restricted_rate(a_died: int, a: int, b_died: int, b: int, difference: float) -> float:
    """a's rate that explains both counts best when b's is `difference` higher.

    The root of Miettinen and Nurminen's cubic (1985), in Farrington and Manning's form.
    """
    ratio = a / b
    # Written for b as the first group and a as the second, whose rate is asked for.
    p_b, p_a, d = b_died / b, a_died / a, difference
    c3 = 1 + ratio
    c2 = -(1 + ratio + p_b + ratio * p_a + d * (ratio + 2))
    c1 = d * d + d * (2 * p_b + ratio + 1) + p_b + ratio * p_a
    c0 = -p_b * d * (1 + d)
    v = c2**3 / (3 * c3) ** 3 - c2 * c1 / (6 * c3 * c3) + c0 / (2 * c3)
    under = c2 * c2 / (3 * c3) ** 2 - c1 / (3 * c3)
    u = math.copysign(math.sqrt(max(under, 0.0)), v)
    if u == 0.0:
        root = -c2 / (3 * c3)
    else:
        w = (math.pi + math.acos(max(-1.0, min(1.0, v / u**3)))) / 3
        root = 2 * u * math.cos(w) - c2 / (3 * c3)
    return min(max(root - d, 0.0, -d), 1.0, 1 - d)


def miettinen_nurminen_z(a_died: int, a: int, b_died: int, b: int, difference: float) -> float:
    """How far the counts lie from "b's rate is a's plus `difference`", in standard errors."""
    p = restricted_rate(a_died, a, b_died, b, difference)
    q = min(1.0, max(0.0, p + difference))
    total = a + b
    variance = (p * (1 - p) / a + q * (1 - q) / b) * total / (total - 1)
    distance = b_died / b - a_died / a - difference
    if variance <= 1e-15:
        return 0.0 if abs(distance) < 1e-12 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def upper_difference(a_died: int, a: int, b_died: int, b: int, alpha: float = 0.05) -> float:
    """The one-sided 1 - alpha upper bound of b - a, Miettinen-Nurminen.

    >>> round(upper_difference(0, 52, 0, 52), 3)
    0.05
    """
    _check(a_died, a, b_died, b)
    if a == 0 or b == 0:
        return 1.0
    z = NormalDist().inv_cdf(1 - alpha)
    low, high = b_died / b - a_died / a, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if miettinen_nurminen_z(a_died, a, b_died, b, middle) > -z:
            low = middle
        else:
            high = middle
    return high


# At higher rates the normal approximation is within a tenth, and the exact sum takes seconds.
_EXACT_BELOW = 0.06


def trials_for_no_regression(rate: float, margin: float, power: float = 0.8) -> int | None:
    """Trials per arm that show "not more than `margin` worse" when nothing changed.

    None when 3000 do not. Computed exactly where deaths are rare.
    """
    import numpy as np

    if rate > _EXACT_BELOW:
        z = NormalDist().inv_cdf(0.95) + NormalDist().inv_cdf(power)
        wanted = math.ceil(2 * rate * (1 - rate) * (z / margin) ** 2)
        return wanted if wanted <= 3000 else None

    def enough(n: int) -> bool:
        rates = np.array([max(rate, 1e-12)])
        weights = _binomials(n, rates)[0]
        likely = [k for k in range(n + 1) if weights[k] > 1e-8]
        chance = 0.0
        for x in likely:
            # The more deaths after, the harder to show: the first that fails ends the row.
            for y in likely:
                if miettinen_nurminen_z(x, n, y, n, margin) >= -1.6448536269514722:
                    break
                chance += float(weights[x] * weights[y])
        return chance >= power

    low, high = 2, 16
    while not enough(high):
        low, high = high, high * 2
        if high > 3000:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    # Power rises in saw teeth: a tooth below may reach it too.
    return next(n for n in range(max(2, high * 3 // 4), high + 1) if enough(n))


# --- many cells ------------------------------------------------------------------------------


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """q values: reject all q <= level, and at most that share of them is wrong on average.

    >>> [round(q, 3) for q in benjamini_hochberg([0.01, 0.04, 0.03, 0.5])]
    [0.04, 0.053, 0.053, 0.5]
    """
    order = sorted(range(len(p)), key=lambda i: p[i], reverse=True)
    result = [0.0] * len(p)
    smallest = 1.0
    for rank, index in zip(range(len(p), 0, -1), order, strict=True):
        smallest = min(smallest, p[index] * len(p) / rank)
        result[index] = smallest
    return result


@dataclass(frozen=True, slots=True)
class Pooled:
    """All strata at once.

    Attributes:
        p: Cochran-Mantel-Haenszel, two-sided, without continuity correction; None when
            no stratum has both groups and both deaths and survivors.
        difference, low, high: Mantel-Haenszel pooled difference, Sato's variance;
            Newcombe's width where a whole group lived or died.
        risk_ratio: Mantel-Haenszel; None without deaths in a.
        strata: How many said something.
    """

    p: float | None
    difference: float | None
    low: float | None
    high: float | None
    risk_ratio: float | None
    strata: int

    def document(self) -> dict[str, Any]:
        return {
            "p": self.p,
            "difference": {"point": self.difference, "low": self.low, "high": self.high},
            "risk_ratio": self.risk_ratio,
            "strata": self.strata,
        }


def mantel_haenszel(strata: Iterable[Stratum], alpha: float = 0.05) -> Pooled:
    """One answer for all cells; strata in which one group is empty say nothing."""
    excess = variance = 0.0
    weight = weighted = sato_p = sato_q = 0.0
    ratio_up = ratio_down = 0.0
    used = 0
    sums = [0, 0, 0, 0]
    for s in strata:
        total = s.a + s.b
        if s.a == 0 or s.b == 0:
            continue
        died = s.a_died + s.b_died
        sums = [x + y for x, y in zip(sums, (s.a_died, s.a, s.b_died, s.b), strict=True)]
        if 0 < died < total:
            used += 1
        excess += s.b_died - s.b * died / total
        variance += s.a * s.b * died * (total - died) / (total * total * (total - 1))
        share = s.a * s.b / total
        weight += share
        weighted += share * (s.b_died / s.b - s.a_died / s.a)
        sato_p += (s.b**2 * s.a_died - s.a**2 * s.b_died + s.a * s.b * (s.a - s.b) / 2) / total**2
        sato_q += (s.b_died * (s.a - s.a_died) + s.a_died * (s.b - s.b_died)) / (2 * total)
        ratio_up += s.b_died * s.a / total
        ratio_down += s.a_died * s.b / total
    if weight == 0:
        return Pooled(None, None, None, None, None, 0)
    difference = weighted / weight
    ratio = ratio_up / ratio_down if ratio_down else None
    if variance <= 0:
        # Nobody died anywhere, or everybody did: the counts together still bound it.
        low = -upper_difference(sums[2], sums[3], sums[0], sums[1], alpha / 2)
        high = upper_difference(sums[0], sums[1], sums[2], sums[3], alpha / 2)
        return Pooled(None, difference, low, high, ratio, used)
    if {sums[0], sums[1] - sums[0], sums[2], sums[3] - sums[2]} & {0}:
        # A rate of 0 or 1 all over one group has no variance of its own: 0/12 and 12/12 would
        # be "+100 points, exactly".
        point, low, high = newcombe(sums[0], sums[1], sums[2], sums[3], alpha)
        below, above = point - low, high - point
    else:
        error = math.sqrt(max(0.0, difference * sato_p + sato_q)) / weight
        below = above = NormalDist().inv_cdf(1 - alpha / 2) * error
    return Pooled(
        2 * normal_tail(abs(excess) / math.sqrt(variance)),
        difference,
        max(-1.0, difference - below),
        min(1.0, difference + above),
        ratio,
        used,
    )


def _check(a_died: int, a: int, b_died: int, b: int) -> None:
    if not (0 <= a_died <= a and 0 <= b_died <= b):
        raise ValueError(f"{a_died} deaths in {a} trials against {b_died} in {b}")
