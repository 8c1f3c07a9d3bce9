"""How sure a death rate is: intervals for counts, looked at once or all the time.

Law: counts in, `Interval` out; needs nothing but the standard library, since every
sweep prints an interval and must not wait for scipy.

Which method, and why:

- looked at once: Wilson's score interval. Its coverage is 95 % on average over rates and
  dips to 90 % for rare deaths in few trials; Wald's (p ± 1.96 s) covers 10 % there.
- no death at all, or nothing but deaths: the exact one-sided bound, 1 - 0.05^(1/n).
- looked at while it grows (stopped early, live progress): the beta-binomial confidence
  sequence (Robbins' mixture with Jeffreys' prior). It holds at all times at once;
  Wilson's, looked at after each of 200 trials, is wrong at some time in a third of runs.
- several hypotheses in one picture: Goodman's simultaneous intervals, which are Wilson's
  at alpha / (number of hypotheses).
- counts that are not sure (blind trials, undecided verdicts): the lower end from the
  lowest count, the upper end from the highest. Never fractional counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WILSON = "wilson"
EXACT = "exact-one-sided"
SEQUENCE = "confidence-sequence"
GOODMAN = "goodman"
SIMULTANEOUS_SEQUENCE = "dirichlet-multinomial-sequence"
NONE = "none"


@dataclass(frozen=True, slots=True)
class Interval:
    """A rate, 0-1, and the ends between which it lies with 95 % confidence.

    Attributes:
        point: Deaths over observed trials; None without a trial.
        method: What the ends are worth: `wilson`, `exact-one-sided`,
            `confidence-sequence`, `goodman`, … with `+unobserved` or `+unknown` where the
            ends also allow for counts that are not sure.
    """

    point: float | None
    low: float
    high: float
    method: str

    def document(self) -> dict[str, Any]:
        return {"point": self.point, "low": self.low, "high": self.high, "method": self.method}


@lru_cache(maxsize=256)
def _z(tail: float) -> float:
    return NormalDist().inv_cdf(1 - tail)


def _check(k: int, n: int) -> None:
    if not 0 <= k <= n:
        raise ValueError(f"{k} deaths in {n} trials")


def wilson(k: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Wilson's score interval, two-sided.

    >>> low, high = wilson(2, 6)
    >>> round(low, 3), round(high, 3)
    (0.097, 0.7)
    """
    _check(k, n)
    if n == 0:
        return 0.0, 1.0
    z = _z(alpha / 2)
    p = k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # The algebra is exact at the ends, the floats are not.
    low = 0.0 if k == 0 else max(0.0, centre - half)
    high = 1.0 if k == n else min(1.0, centre + half)
    return low, high


def zero_bound(n: int, alpha: float = 0.05) -> float:
    """The highest rate that n trials without a death leave possible, one-sided.

    >>> [round(zero_bound(n), 3) for n in (30, 59, 299)]
    [0.095, 0.05, 0.01]
    """
    return 1.0 if n == 0 else 1.0 - alpha ** (1.0 / n)


def once(k: int, n: int, alpha: float = 0.05) -> tuple[float, float, str]:
    """(low, high, method) for counts that are looked at once."""
    _check(k, n)
    if n == 0:
        return 0.0, 1.0, NONE
    if k == 0:
        return 0.0, zero_bound(n, alpha), EXACT
    if k == n:
        return 1.0 - zero_bound(n, alpha), 1.0, EXACT
    return *wilson(k, n, alpha), WILSON


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_likelihood(k: int, n: int, p: float) -> float:
    total = 0.0
    if k:
        total += k * math.log(p) if p > 0 else -math.inf
    if n - k:
        total += (n - k) * math.log1p(-p) if p < 1 else -math.inf
    return total


def _ends(k: int, n: int, excluded: Callable[[float], bool]) -> tuple[float, float]:
    """The ends of {p: not excluded} around k/n, by halving; the set is an interval."""
    centre = k / n

    def edge(inside: float, outside: float) -> float:
        if not excluded(outside):
            return outside
        # 50 halvings of a unit: below 1e-15, what a float holds. The excluded side is
        # returned, so that rounding only ever widens.
        for _ in range(50):
            middle = (inside + outside) / 2
            if excluded(middle):
                outside = middle
            else:
                inside = middle
        return outside

    low = 0.0 if k == 0 else edge(centre, 0.0)
    high = 1.0 if k == n else edge(centre, 1.0)
    return low, high


@lru_cache(maxsize=65536)
def sequence(k: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """The beta-binomial confidence sequence at n: true at all n at once with 1 - alpha.

    Robbins' mixture over Jeffreys' prior: p is out once the mixture of all rates explains
    the counts 1/alpha times better than p does (Ville's inequality).

    >>> low, high = sequence(0, 30)
    >>> low, round(high, 3)
    (0.0, 0.161)
    """
    _check(k, n)
    if n == 0:
        return 0.0, 1.0
    mixture = _log_beta(k + 0.5, n - k + 0.5) - _log_beta(0.5, 0.5)
    threshold = mixture - math.log(1 / alpha)
    return _ends(k, n, lambda p: _log_likelihood(k, n, p) < threshold)


def rate(
    died: int, observed: int, *, unobserved: int = 0, watched: bool = False, alpha: float = 0.05
) -> Interval:
    """The death rate of one cell.

    Args:
        died: Deaths among `observed`.
        observed: Trials that died, survived or failed their exec.
        unobserved: Trials in which a deciding source was blind: nobody died of them at
            the lower end, all of them at the upper end.
        watched: The number of trials depended on what was seen.
    """
    return between(
        died, died + unobserved, observed + unobserved, point=_point(died, observed),
        watched=watched, alpha=alpha, mark="+unobserved",
    )  # fmt: skip


def between(
    sure: int, possible: int, n: int, *, point: float | None, watched: bool = False,
    alpha: float = 0.05, mark: str = "+unknown",
) -> Interval:  # fmt: skip
    """The interval when the count is only known to lie in sure..possible.

    >>> between(1, 3, 10, point=0.1).method
    'wilson+unknown'
    """
    if n == 0:
        return Interval(None, 0.0, 1.0, NONE)
    if watched:
        low, high, method = sequence(sure, n, alpha)[0], sequence(possible, n, alpha)[1], SEQUENCE
    elif sure == possible:
        low, high, method = once(sure, n, alpha)
    else:
        # Each end by the rule of its own count; the name of the end that is not trivial.
        low, _, first = once(sure, n, alpha)
        _, high, second = once(possible, n, alpha)
        method = WILSON if WILSON in {first, second} else EXACT
    return Interval(point, low, high, method if sure == possible else method + mark)


def _point(k: int, n: int) -> float | None:
    return k / n if n else None


def simultaneous(
    counts: Mapping[str, int],
    n: int,
    *,
    of: int | None = None,
    unknown: int = 0,
    unobserved: int = 0,
    watched: bool = False,
    alpha: float = 0.05,
) -> dict[str, Interval]:
    """The rate of each hypothesis, all of them right at once with 1 - alpha.

    Args:
        counts: Deaths per hypothesis, those of `unknown` not among them.
        n: Observed trials.
        of: How many hypotheses a death could have had, those that nobody died of included:
            which ones were seen is itself chance. Left out: those of `counts`.
        unknown: Deaths without a verdict: they may belong to any one of the hypotheses,
            so they widen each upper end and no lower end.
        unobserved: Trials in which a deciding source was blind: no death of this hypothesis
            at its lower end, all of them at its upper end.
        watched: The number of trials depended on what was seen.

    Once: Goodman's (Wilson at alpha / number of hypotheses). Watched: the
    Dirichlet-multinomial mixture, projected on each hypothesis.
    """
    if n == 0:
        return {name: Interval(None, 0.0, 1.0, NONE) for name in counts}
    groups = max(1, len(counts), of or 0)
    unseen = [0] * (groups - len(counts))
    total = n + unobserved
    # The categories of a trial: each hypothesis, and everything else.
    rest = total - sum(counts.values())
    result: dict[str, Interval] = {}
    for name, k in counts.items():
        possible = min(total, k + unknown + unobserved)
        if watched:
            others = [c for other, c in counts.items() if other != name] + [*unseen, rest]
            low = _projected(k, total, others, alpha)[0]
            # What may be of this hypothesis moves to it from the rest.
            others[-1] = rest - (possible - k)
            high = _projected(possible, total, others, alpha)[1]
            method = SIMULTANEOUS_SEQUENCE
        else:
            low = wilson(k, total, alpha / groups)[0]
            high = wilson(possible, total, alpha / groups)[1]
            method = GOODMAN
        marks = ("+unknown" if unknown else "") + ("+unobserved" if unobserved else "")
        result[name] = Interval(k / n, low, high, method + marks)
    return result


def _projected(k: int, n: int, others: list[int], alpha: float) -> tuple[float, float]:
    """One coordinate of the Dirichlet-multinomial confidence sequence (Jeffreys' prior).

    A rate p of this hypothesis is out when no split of 1 - p among the others saves it;
    the best split is the one in proportion to their counts.
    """
    counts = [k, *others]
    mixture = (
        sum(math.lgamma(c + 0.5) - math.lgamma(0.5) for c in counts)
        + math.lgamma(0.5 * len(counts))
        - math.lgamma(n + 0.5 * len(counts))
    )
    left = n - k
    split = sum(c * math.log(c / left) for c in others if c)
    threshold = mixture - math.log(1 / alpha)
    return _ends(k, n, lambda p: _log_likelihood(k, n, p) + split < threshold)
