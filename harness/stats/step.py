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


@lru_cache(maxsize=32)
def _bad(candidates: int) -> Any:
    import numpy as np

    # Configuration i dies often if the first bad one is h + 1 <= i.
    return np.arange(candidates)[:, None] >= np.arange(1, candidates)[None, :]


class Step(Search):
    """Candidates 0 (known good) to n - 1 (known bad); hypothesis h: h + 1 is the first bad.

    Both ends may be asked for: where the rates are not known, a trial there is what tells
    what a death means.

    >>> search = Step(5, rates=Rates((0.0,), (1.0,), (1.0,)))
    >>> while not search.done:
    ...     at = search.ask()
    ...     search.tell(at, died=at >= 3)
    >>> search.first_bad, search.trials
    (3, 2)
    """

    def __init__(
        self,
        candidates: int,
        *,
        prior: Sequence[float] | None = None,
        rates: Rates | None = None,
        gap: float = GAP,
        stop: float = STOP,
    ) -> None:
        if candidates < 2:
            raise ValueError("a step needs a good and a bad candidate")
        # Who knows both rates knows that they differ.
        ends = (0, candidates - 1) if rates is None else None
        rates = unknown(gap) if rates is None else rates
        super().__init__(_bad(candidates), prior=prior, rates=rates, stop=stop, ends=ends)

    @property
    def first_bad(self) -> int:
        """The likeliest first bad candidate."""
        return self.best[0] + 1
