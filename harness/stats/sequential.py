"""When a cell has had enough trials: rules that may be asked after every single one.

Law: a rule is a frozen value; `decide` looks at counts alone, so a recorded sweep can be
replayed. What a rule promises (its error rates) is computed exactly, not approximated.

- two rates declared: Wald's sequential probability ratio test, cut off at a cap. Wald's
  own bounds waste what the last step overshoots, so both are tuned by an exact dynamic
  programme that sees the cap: half the trials of a fixed number on the average.
- one rate: two one-sided e-processes with Jeffreys' mixture on either side of it. Dearer
  by 15 to 40 %, valid at every stop and without a horizon.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

# log(0) has no place in a ratio: below this nobody measures.
_TINY = 1e-9
_GRID = 20
_LONGEST = 20_000
# Chances below this are let go: all of them together move no printed digit.
_NEGLIGIBLE = 1e-12
# An e-process whose cap lies beyond is not looked at further ahead.
_AHEAD = 1000

# Rises from no deaths for which a plan names the trials that find them.
_RISES = (0.5, 0.2, 0.1, 0.05)


@dataclass(frozen=True, slots=True)
class Sprt:
    """Truncated SPRT between "at most `below`" and "at least `above`".

    Attributes:
        alpha: The chance of either wrong answer, at most, computed exactly.
        cap: Trials after which the answer is "undecided".
        upper, lower: Bounds of the log likelihood ratio, above : below.
    """

    below: float
    above: float
    alpha: float
    cap: int
    upper: float
    lower: float

    def decide(self, died: int, observed: int) -> str | None:
        """Why to stop now, or None to go on.

        >>> rule = sprt(0.01, 0.10, alpha=0.05, cap=122)
        >>> rule.decide(0, 30), rule.decide(0, 31), rule.decide(2, 2)
        (None, 'below 10%', 'above 1%')
        """
        ratio = _ratio(died, observed, self.below, self.above)
        if ratio >= self.upper:
            return f"above {_percent(self.below)}"
        if ratio <= self.lower:
            return f"below {_percent(self.above)}"
        return f"undecided at {self.cap} trials" if observed >= self.cap else None

    @property
    def level(self) -> float:
        """The rate at which the two answers are equally likely."""
        death, life = _steps(self.below, self.above)
        return -life / (death - life)

    def outlook(self, rate: float) -> Outlook:
        """What to expect of a cell with this true rate, exactly."""
        return _evaluate(self.below, self.above, [self.upper], [self.lower], self.cap, rate)[0]


@dataclass(frozen=True, slots=True)
class Outlook:
    """Chances of the three answers and the expected number of trials."""

    above: float
    below: float
    undecided: float
    trials: float


@dataclass(frozen=True, slots=True)
class EProcess:
    """Stops as soon as the rate is surely on one side of `level`.

    At most one of the two answers is wrong, and it is given with a chance of at most
    alpha, however often one looks.
    """

    level: float
    alpha: float
    cap: int

    def decide(self, died: int, observed: int) -> str | None:
        """Why to stop now, or None to go on."""
        bar = math.log(1 / self.alpha)
        if evidence(died, observed, self.level, above=True) >= bar:
            return f"above {_percent(self.level)}"
        if evidence(died, observed, self.level, above=False) >= bar:
            return f"below {_percent(self.level)}"
        return f"undecided at {self.cap} trials" if observed >= self.cap else None

    def outlook(self, rate: float) -> Outlook:
        """What to expect of a cell with this true rate, exactly."""
        import numpy as np

        bar = math.log(1 / self.alpha)
        weight, result = np.ones(1), [0.0, 0.0, 0.0]
        for n in range(1, self.cap + 1):
            moved = np.zeros(n + 1)
            moved[:-1] += weight * (1 - rate)
            moved[1:] += weight * rate
            # Only counts that are still going on matter; their number grows like a root.
            going = np.flatnonzero(moved > _NEGLIGIBLE)
            deaths = np.arange(going[0], going[-1] + 1)
            chance = moved[deaths]
            is_above = _evidence(deaths, n, self.level, above=True) >= bar
            is_below = ~is_above & (_evidence(deaths, n, self.level, above=False) >= bar)
            result[0] += float(chance[is_above].sum())
            result[1] += float(chance[is_below].sum())
            result[2] += n * float(chance[is_above | is_below].sum())
            weight = np.zeros(n + 1)
            weight[deaths] = np.where(is_above | is_below, 0.0, chance)
            if weight.sum() < _NEGLIGIBLE * n:
                return Outlook(result[0], result[1], 0.0, result[2])
        rest = float(weight.sum())
        return Outlook(result[0], result[1], rest, result[2] + self.cap * rest)


@dataclass(frozen=True, slots=True)
class Fixed:
    """Every cell gets the same number of trials, whatever comes of them."""

    cap: int
    level: float = 0.05
    adaptive: ClassVar[bool] = False

    def decide(self, died: int, observed: int) -> str | None:
        return f"{self.cap} trials" if observed >= self.cap else None


def roughly(rate: float, below: float, above: float, alpha: float = 0.05) -> float:
    """Trials that an SPRT takes of a cell with this true rate: Wald's approximation, at once.

    For saying how long something will take; `outlook` is exact and takes its time.

    >>> round(roughly(0.0, 0.01, 0.10)), round(roughly(0.30, 0.01, 0.10))
    (31, 5)
    """
    death, life = _steps(max(below, _TINY), min(above, 1 - _TINY))
    drift = abs(rate * death + (1 - rate) * life)
    return max(1.0, math.log((1 - alpha) / alpha) / max(drift, _TINY))


def rule(
    most: int, *, below: float | None = None, above: float | None = None, alpha: float = 0.05
) -> Sprt | EProcess | Fixed:
    """The rule for `trials: {max, stop: {alpha, below, above}}`."""
    if below is not None and above is not None:
        # Twice the fixed number: what has not decided itself by then lies between the two.
        return sprt(below, above, alpha=alpha, cap=min(most, 2 * fixed_number(below, above, alpha)))
    level = above if above is not None else below
    if level is None:
        return Fixed(most)
    return EProcess(min(max(level, _TINY), 1 - _TINY), alpha, most)


@lru_cache(maxsize=64)
def sprt(below: float, above: float, *, alpha: float, cap: int) -> Sprt:
    """The cheapest truncated SPRT whose two errors are at most alpha.

    Cheapest: the least trials at `below` and `above` together. Two passes over a grid of
    bounds, each pair evaluated exactly, cap included.
    """
    below, above = max(below, _TINY), min(above, 1 - _TINY)
    if not below < above:
        raise ValueError(f"below {below} is not below above {above}")
    # By Ville's inequality these outermost bounds keep both errors whatever the cap.
    far = math.log(1 / alpha)
    highs, lows = _spread(0.25 * far, far), _spread(0.25 * far, far)
    best = (far, -far)
    for _ in range(2):
        pairs = [(u, -b) for u in highs for b in lows]
        at_low = _evaluate(below, above, [u for u, _ in pairs], [b for _, b in pairs], cap, below)
        at_high = _evaluate(below, above, [u for u, _ in pairs], [b for _, b in pairs], cap, above)
        found = [
            (low.trials + high.trials, pair)
            for low, high, pair in zip(at_low, at_high, pairs, strict=True)
            if low.above <= alpha and high.below <= alpha
        ]
        if found:
            best = min(found)[1]
        step_u, step_b = highs[1] - highs[0], lows[1] - lows[0]
        highs = _spread(max(best[0] - step_u, 0.01), min(best[0] + step_u, far))
        lows = _spread(max(-best[1] - step_b, 0.01), min(-best[1] + step_b, far))
    # A hair of slack, so that a sum of floats on the bound is on the bound.
    return Sprt(below, above, alpha, cap, best[0] - 1e-9, best[1] + 1e-9)


def _spread(low: float, high: float) -> list[float]:
    return [low + (high - low) * i / (_GRID - 1) for i in range(_GRID)]


def _steps(below: float, above: float) -> tuple[float, float]:
    """What one death and one survival add to the log likelihood ratio."""
    return math.log(above / below), math.log1p(-above) - math.log1p(-below)


def _ratio(died: int, observed: int, below: float, above: float) -> float:
    death, life = _steps(below, above)
    return died * death + (observed - died) * life


def _evaluate(
    below: float,
    above: float,
    uppers: Sequence[float],
    lowers: Sequence[float],
    cap: int,
    rate: float,
) -> list[Outlook]:
    """All pairs of bounds at once: the exact distribution of when and how each stops."""
    import numpy as np

    up = np.asarray(uppers)[:, None] - 1e-12
    low = np.asarray(lowers)[:, None] + 1e-12
    death, life = _steps(below, above)
    most = min(cap, math.ceil((max(uppers) - cap * life) / (death - life)) + 1)
    deaths = np.arange(most + 1)
    weight = np.zeros((len(uppers), most + 1))
    weight[:, 0] = 1.0
    result = np.zeros((4, len(uppers)))
    for n in range(1, cap + 1):
        moved = weight * (1 - rate)
        moved[:, 1:] += weight[:, :-1] * rate
        ratio = (deaths * death + (n - deaths) * life)[None, :]
        is_above, is_below = ratio >= up, ratio <= low
        hit_above, hit_below = (moved * is_above).sum(1), (moved * is_below).sum(1)
        result[0] += hit_above
        result[1] += hit_below
        result[3] += n * (hit_above + hit_below)
        weight = np.where(is_above | is_below, 0.0, moved)
        if n % 16 == 0 and weight.sum() < 1e-12:
            break
    rest = weight.sum(1)
    result[2] += rest
    result[3] += cap * rest
    return [Outlook(*(float(x) for x in column)) for column in result.T]


@lru_cache(maxsize=65536)
def evidence(died: int, observed: int, level: float, *, above: bool) -> float:
    """The log of an e-process against "the rate is on the other side of `level`".

    The mixture is Jeffreys' prior, cut to the side that is claimed.
    """
    return float(_evidence(died, observed, level, above=above))


def _evidence(died: Any, observed: int, level: float, *, above: bool) -> Any:
    """The same for one number of deaths or an array of them."""
    import numpy as np
    from scipy import special

    part = special.betaincc if above else special.betainc
    a, b = died + 0.5, observed - died + 0.5
    mixture = special.betaln(a, b) - special.betaln(0.5, 0.5)
    null = died * math.log(level) + (observed - died) * math.log1p(-level)
    with np.errstate(divide="ignore"):
        share = np.log(part(a, b, level))
    return mixture + share - math.log(part(0.5, 0.5, level)) - null


@lru_cache(maxsize=256)
def fixed_number(below: float, above: float, alpha: float = 0.05, beta: float | None = None) -> int:
    """The smallest fixed number of trials that tells the two rates apart.

    >>> fixed_number(0.01, 0.10), fixed_number(0.05, 0.30)
    (61, 24)
    """
    beta = alpha if beta is None else beta
    for deaths in range(1, 2000):
        # The fewest trials in which `above` gives fewer than `deaths` with chance <= beta.
        low, high = deaths, 2 * deaths
        while _at_most(deaths - 1, high, above) > beta:
            low, high = high, 2 * high
            if high > _LONGEST:
                return _LONGEST
        while low < high:
            middle = (low + high) // 2
            if _at_most(deaths - 1, middle, above) <= beta:
                high = middle
            else:
                low = middle + 1
        if 1 - _at_most(deaths - 1, low, below) <= alpha:
            return low
    return _LONGEST


def _at_most(k: int, n: int, p: float) -> float:
    """P(at most k deaths in n trials)."""
    if p <= 0:
        return 1.0
    if p >= 1:
        return 1.0 if k >= n else 0.0
    term = n * math.log1p(-p)
    total = math.exp(term)
    for i in range(1, min(k, n) + 1):
        term += math.log((n - i + 1) / i) + math.log(p) - math.log1p(-p)
        total += math.exp(term)
    return min(1.0, total)


def plan(
    most: int, *, below: float | None = None, above: float | None = None, alpha: float = 0.05
) -> dict[str, Any]:
    """What a matrix can find out with so many trials a cell, for `--plan`.

    Returns:
        seen_once: The smallest rate that shows a death in `most` trials with 95 %; it is
            also what no death in `most` trials leaves possible.
        detectable: The smallest rise from no deaths that two cells show with 80 % power.
        needed: Rise → trials a cell that show it with 80 % power.
        expected: With `stop`: true rate → expected trials; undecided: chance at the cap.
    """
    from harness.stats import intervals

    chosen = rule(most, below=below, above=above, alpha=alpha)
    result: dict[str, Any] = {
        "max": most,
        "seen_once": intervals.zero_bound(most),
        "detectable": _detectable(most),
        "needed": {f"{rise:g}": needed(rise) for rise in _RISES},
        "fixed": None,
        "expected": {},
        "errors": None,
    }
    rates: tuple[float, ...]
    if isinstance(chosen, Sprt):
        result["fixed"] = fixed_number(chosen.below, chosen.above, alpha)
        rates = (0.0, chosen.below, chosen.level, chosen.above, min(0.99, 3 * chosen.above))
        result["expected"] = {f"{rate:.4g}": chosen.outlook(rate).trials for rate in rates}
        result["errors"] = {
            "above_at_below": chosen.outlook(chosen.below).above,
            "below_at_above": chosen.outlook(chosen.above).below,
            "undecided_between": chosen.outlook(chosen.level).undecided,
        }
    elif isinstance(chosen, EProcess) and most <= _AHEAD:
        rates = (0.0, chosen.level / 4, chosen.level, min(0.99, 4 * chosen.level))
        result["expected"] = {f"{rate:.4g}": chosen.outlook(rate).trials for rate in rates}
        at = chosen.outlook(chosen.level)
        result["errors"] = {
            "above_at_below": at.above,
            "below_at_above": at.below,
            "undecided_between": at.undecided,
        }
    return result


@lru_cache(maxsize=64)
def needed(rise: float) -> int:
    """Trials a cell in which two show a rise from no deaths to this rate, as `plan` finds them.

    >>> needed(0.5), needed(0.05)
    (12, 157)
    """
    low, high = 1, 2
    while (found := _detectable(high)) is None or found > rise:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        found = _detectable(middle)
        low, high = (low, middle) if found is not None and found <= rise else (middle, high)
    return high


def _detectable(n: int) -> float | None:
    """Rate against none, n trials each: Fisher's test at 5 % with 80 % power; None if none."""
    # Against 0/n Fisher's two-sided p falls under 5 % from some count on.
    needed = next((k for k in range(1, n + 1) if _fisher_zero(k, n) <= 0.05), None)
    if needed is None:
        return None
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if 1 - _at_most(needed - 1, n, middle) >= 0.8:
            high = middle
        else:
            low = middle
    return high


def _fisher_zero(k: int, n: int) -> float:
    """Fisher's two-sided p of k deaths against none in n trials each."""
    one = math.exp(
        math.lgamma(n + 1)
        - math.lgamma(n - k + 1)
        + math.lgamma(2 * n - k + 1)
        - math.lgamma(2 * n + 1)
    )
    return min(1.0, 2 * one)


def _percent(rate: float) -> str:
    rate = 0.0 if rate <= _TINY else 1.0 if rate >= 1 - _TINY else rate
    return f"{rate * 100:.4g}%"
