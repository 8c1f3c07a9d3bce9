"""Which of the settings that differ does it? One, two together, or either of two.

Law: `search` does the work; here only what the hypotheses and the questions are, and the
trials that certify an answer. A question is a set of settings taken from the bad
configuration, the rest from the good one; sets are bit masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING

from harness.stats.search import GAP, STOP, Rates, Search, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SINGLE, AND, OR = "single", "and", "or"
KINDS = (SINGLE, AND, OR)

MOST = 40
"""Settings: beyond that the pairs alone are 1600 hypotheses, and nobody reads the diff."""

# All subsets up to here; beyond, a choice of 4096 that always holds the telling ones.
_ALL_SUBSETS = 12
_CHOSEN = 4096


@dataclass(frozen=True, slots=True)
class Culprits:
    """One hypothesis: these settings, alone, together, or either."""

    kind: str
    settings: tuple[int, ...]

    @property
    def mask(self) -> int:
        return sum(1 << i for i in self.settings)

    def kills(self, chosen: int) -> bool:
        """Whether a configuration with these settings of the bad one dies often."""
        if self.kind == OR:
            return bool(chosen & self.mask)
        return chosen & self.mask == self.mask


@dataclass(frozen=True, slots=True)
class Check:
    """One configuration that must die, or must not, if the answer is right.

    `says` has `{names[i]}` in the place of setting i.
    """

    mask: int
    dies: bool
    says: str


def class_of(settings: int, kinds: Sequence[str] = KINDS) -> tuple[Culprits, ...]:
    """All hypotheses: every single setting, every pair of either kind.

    >>> len(class_of(12)), len(class_of(12, (SINGLE, AND)))
    (144, 78)
    """
    pairs = list(combinations(range(settings), 2))
    found: list[Culprits] = []
    if SINGLE in kinds:
        found += [Culprits(SINGLE, (i,)) for i in range(settings)]
    for kind in (AND, OR):
        if kind in kinds:
            found += [Culprits(kind, pair) for pair in pairs]
    return tuple(found)


@lru_cache(maxsize=8)
def _questions(settings: int, seed: int) -> tuple[int, ...]:
    """The sets that may be asked for."""
    every = (1 << settings) - 1
    if settings <= _ALL_SUBSETS:
        return tuple(range(every + 1))
    import numpy as np

    rng = np.random.default_rng([seed, settings])
    chosen = {0, every}
    chosen |= {1 << i for i in range(settings)} | {every ^ (1 << i) for i in range(settings)}
    pairs = [(1 << i) | (1 << j) for i, j in combinations(range(settings), 2)]
    chosen |= set(pairs) | {every ^ p for p in pairs}
    while len(chosen) < _CHOSEN:
        # Sets of every size: pairs that act together are halved best by large ones.
        share = rng.uniform(0.1, 0.9)
        bits = rng.random(settings) < share
        chosen.add(int(sum(1 << i for i in range(settings) if bits[i])))
    return tuple(sorted(chosen))


class Culprit(Search):
    """The minimal set of settings that kills, among those in which two configurations differ.

    Args:
        settings: How many differ.
        kinds: What a culprit may be. Each kind gets the same share of the prior.
        allowed: Which sets can be run at all.
    """

    def __init__(
        self,
        settings: int,
        *,
        kinds: Sequence[str] = KINDS,
        rates: Rates | None = None,
        gap: float = GAP,
        stop: float = STOP,
        seed: int = 0,
        allowed: Callable[[int], bool] | None = None,
    ) -> None:
        import numpy as np

        if not 1 <= settings <= MOST:
            raise ValueError(f"{settings} settings: from 1 to {MOST}")
        self.settings = settings
        self.hypotheses = class_of(settings, kinds)
        questions = [q for q in _questions(settings, seed) if allowed is None or allowed(q)]
        self.questions = tuple(questions)
        asked = np.array(questions, dtype=np.int64)[:, None]
        masks = np.array([h.mask for h in self.hypotheses], dtype=np.int64)[None, :]
        either = np.array([h.kind == OR for h in self.hypotheses])[None, :]
        both = asked & masks
        bad = np.where(either, both != 0, both == masks)
        present = [kind for kind in kinds if any(h.kind == kind for h in self.hypotheses)]
        sizes = {kind: sum(h.kind == kind for h in self.hypotheses) for kind in present}
        prior = [1 / len(present) / sizes[h.kind] for h in self.hypotheses]
        # Who knows both rates knows that they differ.
        whole = (1 << settings) - 1
        both_there = rates is None and {0, whole} <= set(questions)
        ends = (self.index(0), self.index(whole)) if both_there else None
        rates = unknown(gap) if rates is None else rates
        super().__init__(bad, prior=prior, rates=rates, stop=stop, ends=ends)

    def index(self, mask: int) -> int:
        """The question's number, for `tell` and `history`.

        Raises:
            ValueError: this set is no question here.
        """
        return self.questions.index(mask)

    @property
    def answer(self) -> Culprits:
        return self.hypotheses[self.best[0]]


def certification(answer: Culprits, settings: int) -> tuple[Check, ...]:
    """What must hold if the answer is right and minimal, with words for the report.

    >>> [c.mask for c in certification(Culprits(AND, (0, 2)), 3)]
    [5, 6, 3]
    """
    every = (1 << settings) - 1
    checks: list[Check] = []
    if answer.kind == OR:
        checks += [
            Check(1 << i, dies=True, says=f"{{names[{i}]}} alone is enough")
            for i in answer.settings
        ]
        checks.append(Check(every ^ answer.mask, dies=False, says="without both it lives"))
        return tuple(checks)
    enough = "the culprit alone is" if answer.kind == SINGLE else "the two together are"
    checks.append(Check(answer.mask, dies=True, says=f"{enough} enough"))
    checks += [
        Check(every ^ (1 << i), dies=False, says=f"without {{names[{i}]}} it lives")
        for i in answer.settings
    ]
    return tuple(checks)
