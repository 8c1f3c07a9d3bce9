"""`sweep --plan`: what would be run, in which order, at which price. Runs nothing."""

from __future__ import annotations

import itertools
import json as jsonlib
from typing import TYPE_CHECKING, Any

from harness import units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.model.experiment import TrialSpec
    from harness.spec import Loaded

# Measured on two cores with a pen; a machine under software emulation takes a hundred times
# as long to start, which the notes of a plan for one say.
START_SECONDS = {"pen": 1.5, "vm": 45.0, "colima": 60.0, "host": 0.0, "auto": 1.5}
TRIAL_OVERHEAD = 1.2
# A light trial's history is 30 to 150 kB packed.
TRIAL_BYTES = 150_000


def document(loaded: Loaded, specs: Sequence[TrialSpec], seed: int) -> dict[str, Any]:
    """The plan as plain values: blocks in order, trials, estimates in seconds and bytes."""
    blocks = []
    for block, group in itertools.groupby(specs, key=lambda s: s.block):
        members = list(group)
        blocks.append(
            {
                "block": block,
                "machine": {
                    k: v for k, v in members[0].machine.model_dump().items()
                    if v not in (None, (), False)
                },
                "trials": [s.trial for s in members],
                "seconds": sum(map(_seconds, members)) + START_SECONDS[members[0].machine.kind],
            }
        )  # fmt: skip
    return {
        "format": "deathbench.plan/1",
        "matrix": loaded.matrix.name,
        "seed": seed,
        "cells": len({s.cell for s in specs}),
        "trials": sum(not s.warm_up for s in specs),
        "warm_ups": sum(s.warm_up for s in specs),
        "machine_starts": len(blocks),
        "seconds": sum(b["seconds"] for b in blocks),
        "bytes": TRIAL_BYTES * len(specs),
        "blocks": blocks,
    }


def _seconds(spec: TrialSpec) -> float:
    experiment = spec.experiment
    return TRIAL_OVERHEAD + experiment.linger + max(0.0, experiment.delay.seconds)


def print_plan(loaded: Loaded, specs: Sequence[TrialSpec], seed: int, *, json: bool) -> int:
    """Print it; exit code 0."""
    plan = document(loaded, specs, seed)
    if json:
        print(jsonlib.dumps(plan))
        return 0
    print(
        f"{plan['matrix']}: {plan['cells']} cells, {plan['trials']} trials"
        f" and {plan['warm_ups']} warm-ups, {plan['machine_starts']} machine starts,"
        f" about {units.show_seconds(round(plan['seconds']))},"
        f" some {max(1, plan['bytes'] >> 20)}MiB of results; seed {seed}"
    )
    for block in plan["blocks"]:
        machine = ", ".join(
            f"{key} {units.show_size(value) if key in {'memory', 'disk'} else value}"
            for key, value in block["machine"].items()
        )
        print(f"\nblock {block['block']}: {machine}")
        for cell, run in itertools.groupby(block["trials"], key=lambda t: t.rpartition("/")[0]):
            print(f"  {cell}  {', '.join(t.rpartition('/')[2] for t in run)}")
    return 0
