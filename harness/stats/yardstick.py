"""How good are our own statistics? Seeded simulations of the rules that sweeps use.

Law: what is measured is the product's own code (`Step`, `Culprit`, `sprt`, `sequence`, …),
never a copy of it. Each function takes a seed and a number of repetitions and returns
plain numbers; a trial is one Bernoulli draw and costs 1.

`LB` is Fano's bound: the trials that any search needs on average for 95 %, even one
that knows both rates. "Right" is exactly the right answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness import schedule
from harness.stats import compare, information, intervals, sequential
from harness.stats.culprit import AND, KINDS, OR, SINGLE, Culprit, class_of
from harness.stats.search import Rates, known
from harness.stats.step import Step
from harness.stats.threshold import Threshold

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CHANNELS = ((0.0, 1.0), (0.02, 0.6), (0.05, 0.3))
_MOST = 3000


@dataclass(frozen=True, slots=True)
class Measured:
    """A search over many repetitions.

    Attributes:
        trials: Mean number; error: its standard error.
        right: Share of repetitions with the right answer.
        bound: LB, or nan where there is none.
    """

    trials: float
    error: float
    right: float
    bound: float
    repetitions: int

    @property
    def ratio(self) -> float:
        return self.trials / self.bound


def _measured(trials: Sequence[int], right: Sequence[bool], bound: float) -> Measured:
    n = len(trials)
    mean = sum(trials) / n
    variance = sum((t - mean) ** 2 for t in trials) / max(1, n - 1)
    return Measured(mean, math.sqrt(variance / n), sum(right) / n, bound, n)


def _rng(*key: int) -> Any:
    import numpy as np

    return np.random.default_rng(key)


def step(
    candidates: int,
    low: float,
    high: float,
    *,
    repetitions: int,
    seed: int,
    rates: Rates | None = None,
    history: int = 0,
    stop: float = 0.95,
) -> Measured:
    """Find the first bad one of `candidates` (rows a1 to a4).

    Args:
        rates: What the search believes of the rates; None: unknown.
        history: Old trials at each end, free of cost.
    """
    rng = _rng(seed, candidates, round(low * 1e4), round(high * 1e4), history)
    trials, right = [], []
    for _ in range(repetitions):
        first = int(rng.integers(1, candidates + 1))
        search = Step(candidates + 1, rates=rates, stop=stop)
        if history:
            search.history(0, int(rng.binomial(history, low)), history)
            search.history(candidates, int(rng.binomial(history, high)), history)
        while not search.done and search.trials < _MOST:
            at = search.ask()
            search.tell(at, bool(rng.random() < (high if at >= first else low)))
        trials.append(search.trials)
        right.append(search.first_bad == first)
    bound = information.least_trials(math.log2(candidates), candidates, low, high, 0.05)
    return _measured(trials, right, bound)


def threshold(width: float, *, repetitions: int, seed: int, points: int = 64) -> Measured:
    """Find where a logistic slope from 2 to 60 % crosses 20 ± 10 % (row a5)."""
    import numpy as np

    rng = _rng(seed, round(width * 10))
    x = np.arange(points)
    trials, right = [], []
    for _ in range(repetitions):
        middle = rng.uniform(8, points - 8)
        if width == 0:
            truth = np.where(x >= math.ceil(middle), 0.6, 0.02)
        else:
            truth = 0.02 + 0.58 / (1 + np.exp(-(x - middle) / width))
        search = Threshold(points, level=0.2, tolerance=0.1)
        while not search.done and search.trials < 300:
            at = search.ask()
            search.tell(at, bool(rng.random() < truth[at]))
        pair = search.answer.between
        trials.append(search.trials)
        right.append(pair is not None and truth[pair[1]] >= 0.1 and truth[pair[0]] <= 0.3)
    return _measured(trials, right, math.nan)


def culprit(
    kind: str | None,
    low: float,
    high: float,
    *,
    repetitions: int,
    seed: int,
    settings: int = 12,
    kinds: Sequence[str] = KINDS,
    rates: Rates | None = None,
    history: int = 0,
    stop: float = 0.95,
) -> Measured:
    """Find the culprit among `settings` (rows b1, b2).

    Args:
        kind: Of the true culprit; None: all of `kinds` in turn.
    """
    asked = kinds if kind is None else (kind,)
    rng = _rng(seed, round(low * 1e4), round(high * 1e4), history, *(len(k) for k in asked))
    every = class_of(settings, kinds)
    by_kind = {k: [h for h in every if h.kind == k] for k in kinds}
    trials, right = [], []
    for i in range(repetitions):
        truth = by_kind[asked[i % len(asked)]]
        answer = truth[int(rng.integers(0, len(truth)))]
        search = Culprit(settings, kinds=kinds, rates=rates, stop=stop)
        if history:
            whole = (1 << settings) - 1
            search.history(search.index(0), int(rng.binomial(history, low)), history)
            search.history(search.index(whole), int(rng.binomial(history, high)), history)
        while not search.done and search.trials < _MOST:
            at = search.ask()
            dies = answer.kills(search.questions[at])
            search.tell(at, bool(rng.random() < (high if dies else low)))
        trials.append(search.trials)
        right.append(search.answer == answer)
    bits = math.log2(len(kinds)) + sum(math.log2(len(by_kind[k])) for k in kinds) / len(kinds)
    bound = information.least_trials(bits, len(every), low, high, 0.05)
    return _measured(trials, right, bound)


def looking_early(rate: float, *, repetitions: int, seed: int, looks: int = 200) -> float:
    """Share of runs in which the stopped cell's interval ever misses the true rate (row e)."""
    import numpy as np

    rng = _rng(seed, round(rate * 1e4))
    deaths = (rng.random((repetitions, looks)) < rate).cumsum(1)
    missed = np.zeros(repetitions, dtype=bool)
    for n in range(5, looks + 1):
        ends = [intervals.sequence(k, n) for k in range(n + 1)]
        out = np.array([not low <= rate <= high for low, high in ends])
        missed |= out[deaths[:, n - 1]]
    return float(missed.mean())


def allocation(per_cell: int, *, repetitions: int, seed: int, cells: int = 24) -> dict[str, float]:
    """Cells on the wrong side of 5 % after a budget, spent evenly or where undecided (row f).

    Returns:
        uniform, ours: over all cells; uniform_far, ours_far: over cells a factor of two or
        more away from 5 %.
    """
    level = 0.05
    # The same cells whatever the budget: two budgets are compared on one sweep.
    worlds, rng = _rng(seed), _rng(seed, per_cell)
    wrong = {"uniform": 0.0, "ours": 0.0, "uniform_far": 0.0, "ours_far": 0.0}
    for _ in range(repetitions):
        # A sweep as they are: most cells clean, some near the level, some clearly bad.
        truth = []
        for kind in worlds.choice(3, cells, p=[0.55, 0.2, 0.25]):
            low, high = ((0.0, 0.005), (0.02, 0.15), (0.2, 0.9))[kind]
            truth.append(float(worlds.uniform(low, high)))
        far = [p < level / 2 or p > 2 * level for p in truth]
        even = [(int(rng.binomial(per_cell, p)), per_cell) for p in truth]
        counts = [[int(rng.binomial(2, p)), 2] for p in truth]
        for _ in range(cells * (per_cell - 2)):
            at = min(
                range(cells),
                key=lambda i: schedule.undecided_index(counts[i][0], counts[i][1], level),
            )
            counts[at][0] += int(rng.random() < truth[at])
            counts[at][1] += 1
        for name, found in (("uniform", even), ("ours", counts)):
            bad = [
                ((d + 0.3) / (n + 1.8) > level) != (p > level)
                for (d, n), p in zip(found, truth, strict=True)
            ]
            wrong[name] += sum(bad) / cells
            wrong[f"{name}_far"] += sum(b for b, f in zip(bad, far, strict=True) if f) / max(
                1, sum(far)
            )
    return {name: total / repetitions for name, total in wrong.items()}


def _linear(t: Any) -> Any:
    return 0.05 + 0.15 * t


def _jump(t: Any) -> Any:
    import numpy as np

    return np.where(t < 0.5, 0.05, 0.20)


def _wave(t: Any) -> Any:
    import numpy as np

    return 0.10 + 0.08 * np.sin(2 * np.pi * t)


DRIFTS: dict[str, Callable[[Any], Any]] = {
    "none": lambda t: 0 * t + 0.10,
    "linear 5 to 20 %": _linear,
    "step 5 to 20 %": _jump,
    "sine 10 +- 8 %": _wave,
}


def false_alarms(drift: str, *, repetitions: int, seed: int, per_arm: int = 60) -> dict[str, float]:
    """The same configuration twice on a drifting machine: how often is a change found? (row g)

    Returns:
        ours: blocks of two in random order, Mantel-Haenszel by ten strata of time;
        before_after: all of one, then all of the other, one test.
    """
    import numpy as np

    rng = _rng(seed, len(drift))
    t = (np.arange(2 * per_arm) + 0.5) / (2 * per_arm)
    rates = DRIFTS[drift](t)
    ours = before_after = 0
    for _ in range(repetitions):
        x = rng.random(2 * per_arm) < rates
        first = rng.integers(0, 2, per_arm)
        arm = np.stack([first, 1 - first], 1).ravel()
        strata = []
        for part in np.array_split(np.arange(2 * per_arm), 10):
            in_b = arm[part] == 1
            died = x[part]
            strata.append(
                compare.Stratum(
                    int(died[~in_b].sum()),
                    int((~in_b).sum()),
                    int(died[in_b].sum()),
                    int(in_b.sum()),
                )
            )
        p = compare.mantel_haenszel(strata).p
        ours += p is not None and p < 0.05
        y = rng.random(2 * per_arm) < rates
        z = compare.score_z(int(y[:per_arm].sum()), per_arm, int(y[per_arm:].sum()), per_arm)
        before_after += 2 * compare.normal_tail(abs(z)) < 0.05
    return {"ours": ours / repetitions, "before_after": before_after / repetitions}


def one_cell() -> tuple[sequential.Sprt, dict[float, sequential.Outlook]]:
    """1 % against 10 %, both errors 5 %: the rule and its exact cost (row c)."""
    rule = sequential.sprt(0.01, 0.10, alpha=0.05, cap=2 * sequential.fixed_number(0.01, 0.10))
    return rule, {p: rule.outlook(p) for p in (0.0, 0.01, 0.03, 0.10, 0.30, 0.80)}


__all__ = [
    "AND", "CHANNELS", "DRIFTS", "OR", "SINGLE", "Measured", "allocation", "culprit",
    "false_alarms", "known", "looking_early", "one_cell", "step", "threshold",
]  # fmt: skip
