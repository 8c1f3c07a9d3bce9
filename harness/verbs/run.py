"""`run`: one experiment, N trials, no matrix."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from harness import spec
from harness.verbs import sweep

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(
    experiment: str = "",
    *,
    trials: int = 5,
    overrides: Sequence[str] = (),
    seed: str = "",
    keep_dead: bool = False,
    monitors: str = "",
    json: bool = False,
) -> int:
    """A matrix of one cell; everything else is the sweep's."""
    options = sweep.options(monitors=monitors, keep_dead=keep_dead)
    given = [f"trials.max={trials}", *overrides]
    loaded = spec.load_experiment(sweep.find(experiment, "experiment"), given)
    for change in loaded.changes[1:]:
        print(f"changed: {change}", file=sys.stderr)
    return sweep.execute(loaded, sweep.seed_of(seed, loaded), options, monitors=monitors, json=json)
