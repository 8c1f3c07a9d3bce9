"""Does a rate depend on a setting, whatever the shape of the dependence?

Law: the doses are told apart, never ordered: a race may have its window in the middle, where
a trend sees nothing. Within each stratum (all other settings equal) the deaths are dealt out
anew among the trials, which is exactly what would happen if the dose did not matter; no
approximation for few trials is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

DEALS = 9_999
"""So many: p can not be below 1/10,000, and is known to a tenth of itself where it matters."""


def test(strata: Sequence[Sequence[tuple[int, int]]], *, seed: int = 1) -> float | None:
    """The chance to see the doses differ so much if none mattered.

    Args:
        strata: For each setting of everything else, (deaths, trials) of each dose.

    Returns:
        p between 1/(DEALS + 1) and 1; None where nothing could differ: no stratum with two
        doses in which some died and some did not.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    seen, dealt = 0.0, np.zeros(DEALS)
    told = False
    for doses in strata:
        died = np.array([d for d, n in doses if n], dtype=np.int64)
        trials = np.array([n for _, n in doses if n], dtype=np.int64)
        deaths, total = int(died.sum()), int(trials.sum())
        if len(trials) < 2 or not 0 < deaths < total:
            continue
        told = True
        seen += float(_distance(died, trials, deaths / total))
        drawn = random.multivariate_hypergeometric(trials, deaths, size=DEALS, method="marginals")
        dealt += _distance(drawn, trials, deaths / total)
    if not told:
        return None
    # A hair below: the same table drawn again must count as as far.
    return (1 + int((dealt >= seen * (1 - 1e-9)).sum())) / (DEALS + 1)


def _distance(died: Any, trials: Any, rate: float) -> Any:
    """Pearson's: how far the doses are from one rate for all, in its own variance."""
    return ((died - trials * rate) ** 2 / (trials * rate * (1 - rate))).sum(axis=-1)


def holm(chances: Sequence[float]) -> list[float]:
    """p of several tests, each as it stands among the others (Holm's way); in their order."""
    order = sorted(range(len(chances)), key=lambda i: chances[i])
    adjusted, worst = [0.0] * len(chances), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, chances[i] * (len(chances) - rank)))
        adjusted[i] = worst
    return adjusted
