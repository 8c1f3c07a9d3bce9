"""Which trial comes when: dear axes outside, cheap ones shuffled inside each block.

Rule: a block is one stay on one machine; the machine restarts between blocks. Each
machine configuration gets two blocks when there are trials enough, so that a slow drift
of the host can not pass for an effect of the machine's size.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, TypeVar

from harness.errors import BadInput, Problem
from harness.matrix.cells import Cell, cells
from harness.model.experiment import MachineSpec, TrialSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.spec import Loaded

T = TypeVar("T")

MOST_TRIALS = 1_000_000
ROUNDS = 2


def derive(seed: int, *what: Any) -> int:
    """48 bits that depend on the seed and on what they are for, and on nothing else."""
    text = "/".join(map(str, (seed, *what)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def shuffled(items: Sequence[T], seed: int, *what: Any) -> list[T]:
    """A random order, the same for the same seed: sorted by a hash of the position."""
    order = sorted(range(len(items)), key=lambda i: (derive(seed, *what, i), i))
    return [items[i] for i in order]


def plan(loaded: Loaded, seed: int | None = None) -> list[TrialSpec]:
    """Every trial of a matrix in order.

    Args:
        seed: The campaign's; else the matrix's `order.seed`; else 0.

    Raises:
        BadInput: what `cells` raises, or more trials than any campaign has.
    """
    found = cells(loaded)
    matrix = loaded.matrix
    if seed is None:
        seed = matrix.order.seed if matrix.order.seed is not None else 0
    most = matrix.trials.max
    if len(found) * most > MOST_TRIALS:
        raise BadInput(
            [
                Problem(
                    loaded.main.removeprefix(loaded.cwd.rstrip("/") + "/"),
                    f"{len(found)} cells x {most} trials",
                    f"more than {MOST_TRIALS} trials",
                    "a smaller trials.max, or trials.stop",
                )
            ]
        )
    match matrix.order.by:
        case "blocks":
            blocks = _blocks(found, most, seed)
        case "shuffled":
            pairs = [(cell, n) for cell in found for n in range(1, most + 1)]
            blocks = _runs(_renumbered(_spread(shuffled(pairs, seed, "all"), seed)))
        case "listed":
            blocks = _runs([(cell, n) for cell in found for n in range(1, most + 1)])
    return [
        spec
        for number, block in enumerate(blocks)
        for spec in _specs(block, number, matrix.warm_up, seed)
    ]


def _by_machine(found: Sequence[Cell]) -> list[list[Cell]]:
    groups: dict[MachineSpec, list[Cell]] = {}
    for cell in found:
        groups.setdefault(cell.machine, []).append(cell)
    return list(groups.values())


def _blocks(found: Sequence[Cell], most: int, seed: int) -> list[list[tuple[Cell, int]]]:
    groups = _by_machine(found)
    rounds = ROUNDS if most >= ROUNDS and len(groups) > 1 else 1
    blocks = []
    for turn in range(rounds):
        first = most * turn // rounds + 1
        last = most * (turn + 1) // rounds
        for index in shuffled(range(len(groups)), seed, "machines", turn):
            pairs = [(cell, n) for n in range(first, last + 1) for cell in groups[index]]
            blocks.append(_renumbered(_spread(shuffled(pairs, seed, "block", turn, index), seed)))
    return blocks


def _spread(pairs: list[tuple[Cell, int]], seed: int) -> list[tuple[Cell, int]]:
    """The control's trials one to a round, at a random place in it: drift at any time shows."""
    controls = [pair for pair in pairs if pair[0].control]
    others = [pair for pair in pairs if not pair[0].control]
    if not controls or not others:
        return pairs
    spread = []
    for turn, control in enumerate(controls):
        first = len(others) * turn // len(controls)
        last = len(others) * (turn + 1) // len(controls)
        at = first + derive(seed, "control", turn) % (last - first + 1)
        spread += [*others[first:at], control, *others[at:last]]
    return spread


def _renumbered(pairs: list[tuple[Cell, int]]) -> list[tuple[Cell, int]]:
    """Trial 1 of a cell runs before its trial 2, whatever the shuffle did."""
    numbers: dict[str, list[int]] = {}
    for cell, n in pairs:
        numbers.setdefault(cell.name, []).append(n)
    ordered = {name: iter(sorted(taken)) for name, taken in numbers.items()}
    return [(cell, next(ordered[cell.name])) for cell, _ in pairs]


def _runs(pairs: list[tuple[Cell, int]]) -> list[list[tuple[Cell, int]]]:
    """A new block wherever the machine changes."""
    blocks: list[list[tuple[Cell, int]]] = []
    for cell, n in pairs:
        if not blocks or blocks[-1][-1][0].machine != cell.machine:
            blocks.append([])
        blocks[-1].append((cell, n))
    return blocks


def _specs(block: list[tuple[Cell, int]], number: int, warm_up: int, seed: int) -> list[TrialSpec]:
    there = list({cell.name: cell for cell, _ in block}.values())
    specs = []
    for n in range(1, warm_up + 1):
        cell = there[(n - 1) % len(there)]
        trial = f"{cell.name}/warm-up-{number}-{n}"
        specs.append(_spec(cell, trial, n, number, seed, warm=True))
    for cell, n in block:
        specs.append(_spec(cell, f"{cell.name}/{n}", n, number, seed, warm=False))
    return specs


def _spec(cell: Cell, trial: str, n: int, block: int, seed: int, *, warm: bool) -> TrialSpec:
    return TrialSpec(
        trial=trial,
        cell=cell.name,
        n=n,
        config=dict(cell.config),
        experiment=cell.experiment,
        machine=cell.machine,
        seed=derive(seed, "trial", trial),
        block=block,
        warm_up=warm,
        neighbours=cell.neighbours,
    )
