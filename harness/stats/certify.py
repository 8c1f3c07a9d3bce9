"""Trials that check an answer: each configuration by a test of its own, or two side by side.

Law: pure state machines with the same `ask` and `tell` as a search. The order inside a
block of two is random but seeded, so that drift can not take a side and a recorded run
can be gone through again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from harness.stats.sequential import Sprt, roughly

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.stats.search import Search
    from harness.stats.sequential import EProcess, Fixed
    from harness.stats.twosample import Looks


First = TypeVar("First", bound="Search")


class Certify:
    """Each of some configurations until its rule decides; in rounds, so that drift is shared.

    Args:
        questions: The configurations to check.
        rule: Of all of them.
    """

    def __init__(self, questions: Sequence[int], rule: Sprt | EProcess | Fixed) -> None:
        self.questions = tuple(questions)
        self.rule = rule
        self.counts = {q: [0, 0] for q in self.questions}
        self.verdicts: dict[int, str | None] = dict.fromkeys(self.questions)
        self.trials = 0

    def ask(self, cost: Sequence[float] | None = None) -> int:
        """The open configuration with the fewest trials; restarts break ties."""
        open_ = [q for q in self.questions if self.verdicts[q] is None]
        if cost is None:
            return min(open_, key=lambda q: self.counts[q][1])
        # A restart between every two trials would be dear: stay for a few of them.
        return min(open_, key=lambda q: self.counts[q][1] + 2 * (cost[q] - 1))

    def tell(self, configuration: int, died: bool) -> None:
        count = self.counts[configuration]
        count[0] += died
        count[1] += 1
        self.trials += 1
        if self.verdicts[configuration] is None:
            self.verdicts[configuration] = self.rule.decide(*count)

    @property
    def done(self) -> bool:
        return all(v is not None for v in self.verdicts.values())

    def expected_left(self) -> float:
        """As the rule expects of a configuration that is clearly on the side it seems to be on."""
        return sum(
            max(1.0, self._whole(q) - self.counts[q][1])
            for q, v in self.verdicts.items()
            if v is None
        )

    def _whole(self, question: int) -> float:
        """Trials from the first to the last, roughly."""
        rule = self.rule
        if not isinstance(rule, Sprt):
            return getattr(rule, "cap", 30) / 3
        died, ran = self.counts[question]
        rate = rule.above if died > rule.level * ran else rule.below
        return min(rule.cap, roughly(rate, rule.below, rule.above, rule.alpha))


class Pair:
    """Configuration 0 and configuration 1 in blocks of two, until the looks decide.

    Where the two need different machines, a restart between every two trials would cost
    more than the trials: then the arms take turns by whole stages, in the order 01 10 01,
    and each look still has as many of one as of the other.
    """

    def __init__(self, looks: Looks, seed: int = 0) -> None:
        self.looks = looks
        self.seed = seed
        self.died = [0, 0]
        self.ran = [0, 0]
        self.verdict: str | None = None
        # One stratum of time per look: what drifts between looks cancels.
        self.strata: list[list[int]] = []
        self._last = 0

    def ask(self, cost: Sequence[float] | None = None) -> int:
        """The other one of the block, or by the seed which one begins the next block."""
        if cost is not None and cost[0] != cost[1]:
            stage = self.looks.stage
            if self.ran[self._last] % stage or self.ran[self._last] <= self.ran[1 - self._last]:
                return self._last
            return 1 - self._last
        if self.ran[0] != self.ran[1]:
            return 0 if self.ran[0] < self.ran[1] else 1
        return _coin(self.seed, self.ran[0])

    def tell(self, configuration: int, died: bool) -> None:
        at = self.ran[configuration] // self.looks.stage
        while len(self.strata) <= at:
            self.strata.append([0, 0, 0, 0])
        stratum = self.strata[at]
        stratum[2 * configuration] += died
        stratum[2 * configuration + 1] += 1
        self.died[configuration] += died
        self.ran[configuration] += 1
        self._last = configuration
        if self.ran[0] == self.ran[1] and self.verdict is None:
            self.verdict = self.looks.decide(self.died[0], self.died[1], self.ran[0])

    @property
    def done(self) -> bool:
        return self.verdict is not None

    def expected_left(self) -> float:
        return 0.0 if self.done else float(2 * self.looks.most - sum(self.ran)) * 0.7


class Chain(Generic[First]):
    """A search, and then what its answer makes necessary.

    Args:
        first: The search.
        then: Called once when it is done: what comes after it, or None.
        after: Trials that what comes after will take, as far as is known by now.
    """

    def __init__(
        self,
        first: First,
        then: Callable[[], Certify | None],
        after: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.first = first
        self.then = then
        self.after = after
        self.second: Certify | None = None
        self._called = False

    def _current(self) -> First | Certify:
        if not self.first.done and not self._called:
            return self.first
        if not self._called:
            self._called = True
            self.second = self.then()
        return self.first if self.second is None else self.second

    def ask(self, cost: Sequence[float] | None = None) -> int:
        return self._current().ask(cost)

    def tell(self, configuration: int, died: bool) -> None:
        self._current().tell(configuration, died)

    def history(self, configuration: int, died: int, ran: int) -> None:
        """Trials of earlier campaigns help the search; a certificate is made of new ones."""
        self.first.history(configuration, died, ran)

    @property
    def done(self) -> bool:
        return self._current().done

    def expected_left(self) -> float:
        left = self._current().expected_left()
        return left if self._called else left + self.after()


def _coin(seed: int, block: int) -> int:
    """0 or 1, the same for the same seed and block: one round of a multiplicative hash."""
    mixed = (seed * 0x9E3779B97F4A7C15 + (block + 1) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    mixed ^= mixed >> 31
    mixed = (mixed * 0x94D049BB133111EB) & (2**64 - 1)
    return (mixed >> 40) & 1
