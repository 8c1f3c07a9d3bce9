"""Trials that are not planned but asked for one by one, by a search.

Rule: looks like `Schedule` to whoever runs trials, so that a search runs on real machines
by the same loop as a sweep. Each stay on a machine is a block of its own; leaving a
machine is charged to the search as so many trials, and the search decides whether it is
worth it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from harness.schedule.planned import Decision, Planned

# So many trials in a row that were blind or broken say that no answer will come.
_USELESS = 10


class Asker(Protocol):
    """A search: `stats.step`, `stats.threshold`, `stats.culprit`, `stats.certify`."""

    def ask(self, cost: Sequence[float] | None = None) -> int:
        """The next question."""

    def tell(self, configuration: int, died: bool, /) -> None:
        """One trial's outcome."""

    def expected_left(self) -> float:
        """Trials still to go, roughly."""

    @property
    def done(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Arm:
    """What a question means: a cell, and how to make its n-th trial.

    `make(n, block)` gives the trial. `machine` is equal for arms on equal machines.
    """

    cell: str
    config: Mapping[str, Any]
    machine: Hashable
    make: Callable[[int, int], Planned]


@dataclass(frozen=True, slots=True)
class Step:
    """One trial of a search, for the record and for who watches."""

    trial: str
    question: int
    config: Mapping[str, Any]
    died: bool
    expected_left: float

    def document(self) -> dict[str, Any]:
        return {
            "trial": self.trial,
            "config": dict(self.config),
            "died": self.died,
            "expected_left": round(self.expected_left, 1),
        }


@dataclass(slots=True)
class Asking:
    """A search in the place of a plan.

    Args:
        asker: Asked and told, never more than one question ahead.
        questions: How many there are.
        arm: Question → arm, made when it is first asked.
        machine_of: Question → machine, without making the arm.
        most: Trials at most.
        restart: What a machine restart costs, in trials.
        hopeless: Trials that are left → why to give up now, or None; asked after each trial.
        hear: Called with each step.
    """

    asker: Asker
    questions: int
    arm: Callable[[int], Arm]
    machine_of: Callable[[int], Hashable]
    most: int
    restart: float = 5.0
    budget: float | None = None
    hopeless: Callable[[int], str | None] = lambda _: None
    hear: Callable[[Step], None] = lambda _: None
    steps: list[Step] = field(default_factory=list)
    restarts: int = 0
    given_up: str | None = None
    decisions: list[Decision] = field(default_factory=list)
    _stay: int = 0
    _machine: Hashable = None
    _pending: tuple[int, Planned] | None = None
    _question_of: dict[str, int] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    _arms: dict[int, Arm] = field(default_factory=dict)
    _finished: int = 0
    _useless: int = 0

    @property
    def watched(self) -> bool:
        """How many trials a configuration gets depends on what is seen."""
        return True

    # --- what has happened ---------------------------------------------------------

    def finished(self, trial: str, cell: str, outcome: str, *, warm_up: bool = False) -> str | None:
        """Tell the search; a blind or broken trial tells nothing."""
        self._finished += 1
        if warm_up or cell not in self._question_of:
            return None
        if outcome in {"unobserved", "invalid"}:
            self._useless += 1
            if self._useless >= _USELESS:
                self.given_up = f"{_USELESS} trials in a row were {outcome}"
            return None
        self._useless = 0
        question = self._question_of[cell]
        died = outcome == "died"
        self.asker.tell(question, died)
        config = self._arms[question].config
        step = Step(trial, question, config, died, self.asker.expected_left())
        self.steps.append(step)
        self.hear(step)
        if self.given_up is None and not self.asker.done:
            self.given_up = self.hopeless(self.most - self._finished)
        return None

    def resume(self, finished: Iterable[Mapping[str, Any]], question_of: Mapping[str, int]) -> None:
        """Tell what was run already: {trial, cell, n, outcome, warm_up} in order.

        Args:
            question_of: Cell → question, for all cells that were run.
        """
        for one in finished:
            cell = str(one["cell"])
            if cell in question_of:
                self._know(question_of[cell])
                self._numbers[cell] = max(self._numbers.get(cell, 0), int(one["n"]))
            self.finished(
                str(one["trial"]), cell, str(one["outcome"]), warm_up=bool(one["warm_up"])
            )

    def _know(self, question: int) -> Arm:
        arm = self._arms.get(question)
        if arm is None:
            arm = self._arms[question] = self.arm(question)
            self._question_of[arm.cell] = question
        return arm

    # --- what comes next -----------------------------------------------------------

    @property
    def over(self) -> bool:
        return self.asker.done or self.given_up is not None or self._finished >= self.most

    def _prepare(self) -> tuple[int, Planned]:
        """The next question, asked once and kept until it is taken."""
        if self._pending is None:
            cost = None
            if self._machine is not None:
                cost = [
                    1.0 if self.machine_of(q) == self._machine else 1.0 + self.restart
                    for q in range(self.questions)
                ]
            question = self.asker.ask(cost)
            arm = self._know(question)
            n = self._numbers[arm.cell] = self._numbers.get(arm.cell, 0) + 1
            self._pending = (question, arm.make(n, self._stay))
        return self._pending

    def next(self, block: int, elapsed: float = 0.0) -> Planned | None:
        """The next trial; None: leave this machine, for good or for another one."""
        if self.over or block != self._stay or self.exhausted(elapsed):
            return None
        question, spec = self._prepare()
        machine = self._know(question).machine
        if self._machine is not None and machine != self._machine:
            # The question stays; it is asked again on its own machine, in the next block.
            self._leave(question)
            return None
        self._machine = machine
        self._pending = None
        return spec

    def _leave(self, question: int) -> None:
        self._stay += 1
        self.restarts += 1
        arm = self._know(question)
        self._machine = arm.machine
        self._pending = (question, arm.make(self._numbers[arm.cell], self._stay))

    def peek(self, block: int) -> Any:
        """The trial that comes next: what machine it wants."""
        return self._prepare()[1]

    def waiting(self, block: int) -> bool:
        return block == self._stay and not self.over

    def blocks(self) -> list[int]:
        return [] if self.over else [self._stay]

    def exhausted(self, elapsed: float) -> bool:
        return self.budget is not None and elapsed >= self.budget

    def expected_total(self) -> int:
        left = self.asker.expected_left()
        return min(self.most, self._finished + math.ceil(min(left, 1e6)))

    def stopped(self) -> dict[str, str]:
        """Every cell got what the search asked of it."""
        return (
            dict.fromkeys(self._question_of, "the search asked no more of it") if self.over else {}
        )
