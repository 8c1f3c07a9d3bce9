"""Where along an amount (memory, delay) does the death rate cross a level?

Law: a pure state machine like `search`, for rates that rise by degrees. A step model is
confidently wrong on a slope; here every hypothesis is a logistic curve with its own
middle, width, floor and ceiling, and the search ends at a *good coin*: two neighbouring
points whose rates meet level ± tolerance (Karp and Kleinberg's criterion). The number
of trials grows with the square of 1 / tolerance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from harness.stats.information import divergence, entropy

if TYPE_CHECKING:
    from collections.abc import Sequence

STOP = 0.959

_WIDTHS = (0.15, 1.0, 3.0, 6.0)
_FLOORS = (0.002, 0.02, 0.06)
_CEILINGS = (0.3, 0.45, 0.6, 0.8, 0.97)

# What is kept for "it never crosses": as likely as one point in twenty.
_NEVER = 0.05


# A curve with so little of the posterior would need some forty surprises in a row.
_DEAD = 1e-12


@dataclass(frozen=True, slots=True)
class Crossing:
    """The answer so far.

    Attributes:
        between: Points (i - 1, i) of the axis between which the rate crosses the level;
            None: it stays on one side of it over the whole axis.
        side: "crosses", "below" or "above" (the level, everywhere).
        confidence: Posterior of this answer.
    """

    between: tuple[int, int] | None
    side: str
    confidence: float


@lru_cache(maxsize=8)
def _curves(points: int, level: float, rising: bool) -> tuple[Any, Any, Any]:
    """(rates: points x curves, crossing of each: 1..points-1, or 0 / points, weights)."""
    import numpy as np

    x = np.arange(points)
    floors = [f for f in _FLOORS if f < level * 0.8] or [level / 4]
    ceilings = [c for c in _CEILINGS if c > level * 1.2] or [(1 + level) / 2]
    # Widths in points, but as far as the axis allows a slope to be seen.
    widths = [w for w in _WIDTHS if w <= max(points / 4, 0.5)]
    shape = [
        (middle, width, low, high)
        for middle in np.arange(0.0, points, 1.0 if points >= 12 else 0.5)
        for width in widths
        for low in floors
        for high in ceilings
    ]
    m, w, low, high = (np.array(column)[:, None] for column in zip(*shape, strict=True))
    rates = low + (high - low) / (1 + np.exp(-np.clip((x[None, :] - m + 0.5) / w, -60, 60)))
    crossing = (rates < level).sum(1)
    inside = (crossing > 0) & (crossing < points)
    rates, crossing = rates[inside], crossing[inside]
    # Every place of the crossing is equally likely before, however many curves cross there.
    count = np.bincount(crossing, minlength=points + 1)
    places = int((count > 0).sum())
    weights = (1 - _NEVER) / places / count[crossing]
    flat_low = np.array([f for f in (0.002, 0.02, 0.05, level / 2, level * 0.8) if f < level])
    flat_high = np.array([c for c in (level * 1.25, 0.3, 0.6, 0.9, 0.99) if level < c < 1])
    for flat, place in ((flat_low, points), (flat_high, 0)):
        rates = np.concatenate([rates, np.repeat(flat[:, None], points, axis=1)])
        crossing = np.concatenate([crossing, np.full(len(flat), place)])
        weights = np.concatenate([weights, np.full(len(flat), _NEVER / 2 / len(flat))])
    if not rising:
        rates = rates[:, ::-1]
    rates = np.clip(rates, 1e-6, 1 - 1e-6)
    order = np.argsort(crossing, kind="stable")
    return np.ascontiguousarray(rates[order].T), crossing[order], weights[order] / weights.sum()


class Threshold:
    """Ask and tell along an axis of `points` values in order.

    Args:
        level: The rate to find, 0-1.
        tolerance: How far from it the answer's rates may be, 0-1.
        rising: Whether deaths become more along the axis; False: fewer (memory).
        stop: Posterior of a good coin at which the search ends.
    """

    def __init__(
        self,
        points: int,
        *,
        level: float = 0.2,
        tolerance: float = 0.1,
        rising: bool = True,
        stop: float = STOP,
    ) -> None:
        import numpy as np

        if points < 2:
            raise ValueError("a threshold lies between at least two points")
        if not 0 < level < 1 or tolerance <= 0:
            raise ValueError(f"level {level}, tolerance {tolerance}")
        self.points, self.level, self.tolerance, self.rising = points, level, tolerance, rising
        self.stop = stop
        self.trials = 0
        self._rates, self._crossing, self._weights = _curves(points, level, rising)
        self._starts = np.unique(self._crossing, return_index=True)[1]
        along = self._rates if rising else self._rates[::-1]
        # For each curve: is (i - 1, i) a good coin?
        self._good = (along[1:] >= level - tolerance) & (along[:-1] <= level + tolerance)
        self._good &= ((self._crossing > 0) & (self._crossing < points))[None, :]
        self._good = self._good.astype(float)  # a product with booleans is not one of BLAS
        self._answer: Crossing | None = None
        self._log_evidence = 0.0
        self.died = np.zeros(points, dtype=int)
        self.ran = np.zeros(points, dtype=int)

    def tell(self, point: int, died: bool) -> None:
        """One trial at a point ended so."""
        self._learn(point, int(died), 1)
        self.trials += 1

    def history(self, point: int, died: int, ran: int) -> None:
        """Trials of earlier campaigns: knowledge that costs nothing."""
        if ran:
            self._learn(point, died, ran)

    def _learn(self, point: int, died: int, ran: int) -> None:
        import numpy as np

        rate = self._rates[point]
        logs = died * np.log(rate) + (ran - died) * np.log1p(-rate)
        top = float(logs.max())
        weights = self._weights * np.exp(logs - top)
        self._log_evidence += top + math.log(float(weights.sum()))
        self._weights = weights / weights.sum()
        self._forget()
        self._answer = None
        self.died[point] += died
        self.ran[point] += ran

    def _forget(self) -> None:
        """Drop the curves that nothing will bring back, once they are half of all."""
        import numpy as np

        alive = self._weights > _DEAD
        if 2 * alive.sum() > len(alive):
            return
        self._rates, self._good = self._rates[:, alive], self._good[:, alive]
        self._crossing, self._weights = self._crossing[alive], self._weights[alive]
        self._starts = np.unique(self._crossing, return_index=True)[1]

    def information(self) -> Any:
        """Bits that one trial at each point tells about where the crossing is."""
        import numpy as np

        by_place = np.add.reduceat(self._rates * self._weights, self._starts, axis=1)
        mass = np.add.reduceat(self._weights, self._starts)
        inside = entropy(by_place / np.maximum(mass, 1e-300)) @ mass
        return entropy(by_place.sum(1)) - inside

    def ask(self, cost: Sequence[float] | None = None) -> int:
        """The point to try next: most bits, or most bits per cost."""
        import numpy as np

        bits = self.information()
        if cost is not None:
            bits = bits / np.asarray(cost, dtype=float)
        return int(np.argmax(np.round(bits, 12)))

    @property
    def log_evidence(self) -> float:
        """How well the curves together explain the outcomes so far."""
        return self._log_evidence

    @property
    def answer(self) -> Crossing:
        """The likeliest good coin, or that there is no crossing."""
        if self._answer is None:
            self._answer = self._find()
        return self._answer

    def _find(self) -> Crossing:
        coins = self._good @ self._weights
        index = int(coins.argmax())
        found = Crossing(self._pair(index), "crosses", float(coins[index]))
        for place, side in ((self.points, "below"), (0, "above")):
            mass = float(self._weights[self._crossing == place].sum())
            if mass > found.confidence:
                found = Crossing(None, side, mass)
        return found

    def _pair(self, index: int) -> tuple[int, int]:
        if self.rising:
            return index, index + 1
        return self.points - 2 - index, self.points - 1 - index

    @property
    def done(self) -> bool:
        return self.answer.confidence >= self.stop

    def curve(self) -> tuple[list[float], list[float], list[float]]:
        """(mean, low, high) of the rate at each point: 95 % of the posterior lies between."""
        import numpy as np

        mean = self._rates @ self._weights
        low, high = [], []
        for rates in self._rates:
            order = np.argsort(rates)
            mass = np.cumsum(self._weights[order])
            sorted_rates = rates[order]
            low.append(float(sorted_rates[min(np.searchsorted(mass, 0.025), len(mass) - 1)]))
            high.append(float(sorted_rates[min(np.searchsorted(mass, 0.975), len(mass) - 1)]))
        return [float(x) for x in mean], low, high

    def expected_left(self) -> float:
        """Trials still to go, roughly.

        While the place is open, the bits of it over what the next trial gives; once one
        answer leads, what separates it from its neighbours over what a trial there tells.
        """
        if self.done:
            return 0.0
        answer = self.answer
        if answer.between is not None and answer.confidence > 0.5:
            mean = self._rates @ self._weights
            p, q = (float(mean[i]) for i in answer.between)
            each = (divergence(p, q) + divergence(q, p)) / 2
            odds = math.log(self.stop / (1 - self.stop))
            odds -= math.log(answer.confidence / (1 - answer.confidence))
            return max(1.0, 1.5 * odds / max(each, 1e-3))
        by_place = [float(self._weights[a:b].sum()) for a, b in self._spans()]
        bits = -sum(p * math.log2(p) for p in by_place if p > 0)
        gained = float(self.information().max())
        # Greedy searches gain less later than now; a window of neighbours is enough.
        return max(1.0, max(bits - 1, 0.5) / max(gained, 1e-3) * 1.5)

    def _spans(self) -> list[tuple[int, int]]:
        ends = [*self._starts[1:].tolist(), len(self._weights)]
        return list(zip(self._starts.tolist(), ends, strict=True))


class Oriented:
    """A threshold of which nobody said whether deaths become more or fewer along the axis.

    Both are kept; while neither explains the outcomes 20 times better, the ends are asked.
    """

    def __init__(
        self, points: int, *, level: float = 0.2, tolerance: float = 0.1, stop: float = STOP
    ) -> None:
        self._both = tuple(
            Threshold(points, level=level, tolerance=tolerance, rising=rising, stop=stop)
            for rising in (True, False)
        )

    def _log_odds(self) -> float:
        """Of rising against falling."""
        return self._both[0].log_evidence - self._both[1].log_evidence

    @property
    def likelier(self) -> Threshold:
        return self._both[0] if self._log_odds() >= 0 else self._both[1]

    def ask(self, cost: Sequence[float] | None = None) -> int:
        one = self.likelier
        if abs(self._log_odds()) < math.log(20):
            first, last = 0, one.points - 1
            if one.ran[first] != one.ran[last]:
                return first if one.ran[first] < one.ran[last] else last
            # Nobody dies at either end, or everybody does: look between them by and by.
            if one.ran[first] < 12:
                return first
        return one.ask(cost)

    def tell(self, point: int, died: bool) -> None:
        for one in self._both:
            one.tell(point, died)

    def history(self, point: int, died: int, ran: int) -> None:
        """Trials of earlier campaigns."""
        for one in self._both:
            one.history(point, died, ran)

    @property
    def done(self) -> bool:
        if not self.likelier.done:
            return False
        # "Never" needs no direction.
        return self.likelier.answer.between is None or abs(self._log_odds()) >= math.log(20)

    def expected_left(self) -> float:
        return 0.0 if self.done else max(1.0, self.likelier.expected_left())
