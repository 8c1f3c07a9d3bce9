"""Find the one true hypothesis among many by trials that die or survive, cheaply.

Law: a pure state machine. `ask` names the next configuration, `tell` takes one outcome;
the same outcomes give the same questions. It knows neither what a configuration is nor
how to run one.

Every hypothesis splits the configurations in two: the bad ones die at a high rate, the
good ones at a low rate. Neither rate is known. Both are integrated out over a grid:
plugging in a guess is confidently wrong (0.02 and 0.6 assumed, 0.05 and 0.3 true: 95 %
claimed, a third right). The next trial goes where it tells most about the hypothesis
per unit of cost; a search like this needs about 1.2 times the trials that any search needs
when the rates are known, and 2 times when they are not. Bisection with a fixed number
of repeats needs 3 to 5 times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from harness.stats.information import capacity, entropy

if TYPE_CHECKING:
    from collections.abc import Sequence

STOP = 0.97
"""Posterior at which a search ends: 0.95 is right less often than it says at some rates."""

GAP = 0.05
"""The smallest difference of rates that anybody looks for."""

_LOW = (0.001, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1)
_HIGH = (
    0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.999,
)  # fmt: skip
# Configurations called good that die often are rare, but they exist.
_LOW_RARE = (0.15, 0.2, 0.3, 0.4, 0.55, 0.7)
_RARE = 0.02
_FAVOUR = 0.3

# How unlikely "there is no difference at all" is taken to be at the start.
_NULL = 0.1

LOOK = 20
"""Trials of either end after which it is known how far their rates can lie apart at most."""

DOUBT = 0.5
"""The chance of "no difference" from which on the ends are asked, not what lies between."""


@dataclass(frozen=True, slots=True)
class Rates:
    """A prior over (low, high): parallel tuples, weights add up to 1."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    weight: tuple[float, ...]


def known(low: float, high: float) -> Rates:
    """Rates that are certain. For measuring the search itself."""
    return Rates((low,), (high,), (1.0,))


@lru_cache(maxsize=16)
def unknown(gap: float = GAP) -> Rates:
    """All pairs of the grid that are at least `gap` apart, the usual ones more likely.

    Pairs count by a small power of their difference: a flat prior spends a tenth more
    trials on ruling out small effects than the answer needs, one in proportion to the
    difference is a little too sure of itself (both measured).
    """
    usual = [(a, b) for a in _LOW for b in _HIGH if b >= a + gap - 1e-9]
    rare = [(a, b) for a in _LOW_RARE for b in _HIGH if b >= a + gap - 1e-9]
    weights: list[float] = []
    for pairs, share in ((usual, 1 - _RARE), (rare, _RARE)):
        total = sum((b - a) ** _FAVOUR for a, b in pairs)
        weights += [share * (b - a) ** _FAVOUR / total for a, b in pairs]
    pairs = usual + rare
    return Rates(tuple(a for a, _ in pairs), tuple(b for _, b in pairs), tuple(weights))


class Search:
    """The posterior over hypotheses and rates, and what to try next.

    Args:
        bad: Booleans, configurations x hypotheses: does this configuration die at the
            high rate if this hypothesis is true?
        prior: Weight of each hypothesis; left out: all alike.
        rates: Prior over the two rates.
        stop: Posterior of one hypothesis at which the search ends.
        ends: The configurations (known good, known bad) whose rates tell whether there is
            a difference at all. With them "there is none" is a possibility until the
            outcomes rule it out; without them it is taken as given that there is one.
    """

    def __init__(
        self,
        bad: Any,
        *,
        prior: Sequence[float] | None = None,
        rates: Rates | None = None,
        stop: float = STOP,
        ends: tuple[int, int] | None = None,
    ) -> None:
        import numpy as np

        rates = unknown() if rates is None else rates
        self.ends = ends
        self.bad = np.asarray(bad, dtype=bool)
        self._as_float = self.bad.astype(np.float64)
        count = self.bad.shape[1]
        weights = np.full(count, 1.0 / count) if prior is None else np.asarray(prior, dtype=float)
        self._low, self._high = np.asarray(rates.low), np.asarray(rates.high)
        self._prior = weights / weights.sum()
        # Hypotheses that every question so far splits alike explain the outcomes alike: they
        # are one class, and only classes have a row. After m questions on an ordered list
        # there are at most m + 1 of them, whatever its length.
        self._class: Any = np.zeros(count, dtype=int)
        self._mass: Any = np.ones(1)
        self._joint: Any = np.asarray(rates.weight)[None, :]
        self.stop = stop
        self.trials = 0
        # Deaths and trials of each configuration, history among them.
        self.died = np.zeros(self.bad.shape[0], dtype=int)
        self.ran = np.zeros(self.bad.shape[0], dtype=int)
        self._log_evidence = 0.0

    # --- learning --------------------------------------------------------------------

    def tell(self, configuration: int, died: bool) -> None:
        """One trial of a configuration ended so."""
        self._learn(configuration, int(died), 1)
        self.trials += 1

    def history(self, configuration: int, died: int, ran: int) -> None:
        """Trials of earlier campaigns: they count as knowledge, not as cost."""
        if ran:
            self._learn(configuration, died, ran)

    def _learn(self, configuration: int, died: int, ran: int) -> None:
        import numpy as np

        def likelihood(rate: Any) -> Any:
            if ran == 1:
                return rate if died else 1 - rate
            with np.errstate(divide="ignore", invalid="ignore"):
                logs = np.where(died > 0, died * np.log(rate), 0.0)
                return logs + np.where(ran > died, (ran - died) * np.log1p(-rate), 0.0)

        high, low = likelihood(self._high), likelihood(self._low)
        if ran > 1:
            # In logs first: a thousand trials of history are below what a float holds.
            top = max(float(high.max()), float(low.max()))
            high, low = np.exp(high - top), np.exp(low - top)
            self._log_evidence += top
        where = self._split(configuration)
        self._joint = self._joint * np.where(where[:, None], high[None, :], low[None, :])
        total = float((self._mass @ self._joint).sum())
        if total <= 0:
            raise ValueError("these outcomes are impossible under every hypothesis")
        self._log_evidence += math.log(total)
        self._joint /= total
        self.died[configuration] += died
        self.ran[configuration] += ran

    def _split(self, configuration: int) -> Any:
        """Part the classes that disagree about a configuration. Returns: which classes die of it."""
        import numpy as np

        bad = self.bad[configuration]
        if not self.ran[configuration]:
            parts, self._class = np.unique(2 * self._class + bad, return_inverse=True)
            self._joint = self._joint[parts // 2]
            self._mass = np.bincount(self._class, self._prior)
        where = np.zeros(len(self._joint), dtype=bool)
        where[self._class] = bad
        return where

    # --- asking ------------------------------------------------------------------------

    def information(self) -> Any:
        """Bits that one trial of each configuration tells about the hypothesis."""
        import numpy as np

        likelihood = self._joint.sum(1)
        low, high = self._joint @ self._low, self._joint @ self._high
        # Within a hypothesis the rates are averaged first: what a trial tells about the
        # rates alone is worth nothing by itself.
        safe = np.maximum(likelihood, 1e-300)
        h_low, h_high = likelihood * entropy(low / safe), likelihood * entropy(high / safe)
        # Two products with a vector each: one with two columns takes twice as long.
        dies = self._mass @ low + self._as_float @ (self._prior * (high - low)[self._class])
        known = self._mass @ h_low + self._as_float @ (self._prior * (h_high - h_low)[self._class])
        return entropy(dies) - known

    def ask(self, cost: Sequence[float] | None = None) -> int:
        """The configuration to try next: most bits, or most bits per cost.

        Args:
            cost: Of one trial of each configuration (a machine restart included);
                infinite where it can not be run.
        """
        import numpy as np

        if self.ends is not None and self._doubtful():
            # Trials between the ends tell little about whether the ends differ.
            # A restart between every two of them would be dear: stay for a few.
            paid = [1.0] * len(self.ran) if cost is None else cost
            return min(self.ends, key=lambda q: self.ran[q] + 2 * (paid[q] - 1))
        bits = self.information()
        if cost is not None:
            bits = bits / np.asarray(cost, dtype=float)
        # A hair of preference for the first of equals, whatever the last bit of a sum says.
        return int(np.argmax(np.round(bits, 12)))

    # --- what is known -------------------------------------------------------------------

    @property
    def posterior(self) -> Any:
        """The probability of each hypothesis."""
        return self._prior * self._joint.sum(1)[self._class]

    @property
    def best(self) -> tuple[int, float]:
        """The likeliest hypothesis and its probability."""
        posterior = self.posterior
        index = int(posterior.argmax())
        return index, float(posterior[index])

    @property
    def done(self) -> bool:
        return self.best[1] >= self.stop and not self._doubtful()

    def _doubtful(self) -> bool:
        """Whether "there is no difference" has to be looked at before anything else."""
        if self.ends is None or not self.trials:
            return False
        none = self.no_difference()
        return none > DOUBT or (self.best[1] >= self.stop and none > 1 - self.stop)

    def rates(self) -> tuple[float, float]:
        """What the two rates are by now, on average."""
        weights = self._mass @ self._joint
        return float(weights @ self._low), float(weights @ self._high)

    def expected_left(self) -> float:
        """Trials still to go, roughly: the bits that are missing, over what a trial gives.

        Greedy searches need about a quarter more than the bound; while the rates are
        uncertain the bound is as uncertain.
        """
        if self.done:
            return 0.0
        if self._doubtful():
            assert self.ends is not None
            # What the hypotheses need is not the question yet; so many tell two rates apart.
            return max(2.0, 2 * LOOK - float(sum(self.ran[q] for q in self.ends)))
        return max(1.0, 1.25 * self.least_left(*self.rates()))

    def least_left(self, low: float, high: float) -> float:
        """Trials that any search needs from here on if these are the rates: Fano's bound."""
        posterior = self.posterior
        positive = posterior[posterior > 0]
        bits = -float((positive * _log2(positive)).sum())
        wrong = 1 - self.stop
        missing = bits - float(entropy(wrong)) - wrong * math.log2(max(len(posterior) - 1, 1))
        return max(0.0, missing) / max(capacity(low, high), 1e-9)

    def no_difference(self) -> float:
        """The probability that every configuration has one and the same rate.

        A model beside the hypotheses, with a prior of a tenth: when it wins, a search for
        what makes the difference is hopeless.
        """
        import numpy as np

        died, ran = int(self.died.sum()), int(self.ran.sum())
        log_died, log_lived, weights = _one_rate()
        logs = died * log_died + (ran - died) * log_lived
        top = float(logs.max())
        null = top + math.log(float(weights @ np.exp(logs - top)))
        odds = math.log(_NULL / (1 - _NULL)) + null - self._log_evidence
        return 1 / (1 + math.exp(-min(max(odds, -30.0), 30.0)))


@lru_cache(maxsize=1)
def _one_rate() -> tuple[Any, Any, Any]:
    """A grid of rates that all configurations may have: log p, log (1 - p), weight."""
    import numpy as np

    grid = np.array([0.001, *np.arange(0.005, 1.0, 0.01), 0.999])
    # Low rates are likelier before, though not by as much as for a good configuration.
    weights = grid**-0.5
    return np.log(grid), np.log1p(-grid), weights / weights.sum()


def _log2(x: Any) -> Any:
    import numpy as np

    return np.log2(x)
