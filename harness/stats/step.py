"""Where in an ordered list does it begin? Images, versions, commits: a step, never a slope.

Law: `search` does the work; here only what the hypotheses are. For amounts (memory,
delay), whose effect rises by degrees, see `threshold`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from harness.stats.search import GAP, STOP, Rates, Search, unknown

if TYPE_CHECKING:
    from collections.abc import Sequence


RISING, FALLING = "rising", "falling"


@lru_cache(maxsize=32)
def _bad(candidates: int, directions: tuple[str, ...]) -> Any:
    import numpy as np

    at, cut = np.arange(candidates)[:, None], np.arange(candidates - 1)[None, :]
    # Between which two it changes, and which side of that place is bad.
    sides = {RISING: at > cut, FALLING: at <= cut}
    return np.hstack([sides[direction] for direction in directions])


class Step(Search):
    """Candidates 0 to n - 1, and between two of them it begins.

    Rising: 0 is known good, n - 1 is known bad. Falling: the other way round. Both ends may
    be asked for: where the rates are not known, a trial there is what tells what a death
    means.

    Args:
        directions: Which of the two it may be; both: nobody knows which end is the bad one.

    >>> search = Step(5, rates=Rates((0.0,), (1.0,), (1.0,)))
    >>> while not search.done:
    ...     at = search.ask()
    ...     search.tell(at, died=at >= 3)
    >>> search.last_good, search.first_bad, search.trials
    (2, 3, 2)
    """

    def __init__(
        self,
        candidates: int,
        *,
        directions: Sequence[str] = (RISING,),
        prior: Sequence[float] | None = None,
        rates: Rates | None = None,
        gap: float = GAP,
        stop: float = STOP,
    ) -> None:
        if candidates < 2:
            raise ValueError("a step needs a good and a bad candidate")
        self.directions = tuple(directions)
        self._places = candidates - 1
        # Who knows both rates knows that they differ.
        ends = (0, candidates - 1) if rates is None else None
        rates = unknown(gap) if rates is None else rates
        bad = _bad(candidates, self.directions)
        super().__init__(bad, prior=prior, rates=rates, stop=stop, ends=ends)

    @property
    def direction(self) -> str:
        """The likeliest one."""
        return self.directions[self.best[0] // self._places]

    @property
    def first_bad(self) -> int:
        """The likeliest first bad candidate, on the way from the good end."""
        return self.best[0] % self._places + (self.direction == RISING)

    @property
    def last_good(self) -> int:
        """The one before it on that way."""
        return self.best[0] % self._places + (self.direction == FALLING)
