"""`sweep --plan`: what would be run, in which order, at which price. Runs nothing."""

from __future__ import annotations

import itertools
import json as jsonlib
import math
from typing import TYPE_CHECKING, Any

from harness import units
from harness.report import words
from harness.stats import sequential
from harness.verbs import learned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.model.experiment import TrialSpec
    from harness.spec import Loaded
    from harness.verbs.learned import Learned

# Where nothing was learned yet. Measured on two cores with a pen; a machine under software
# emulation takes a hundred times as long to start, which the notes of a plan for one say.
START_SECONDS = {"pen": 1.5, "vm": 45.0, "colima": 60.0, "host": 0.0, "auto": 1.5}
TRIAL_OVERHEAD = 1.2
# A light trial's history is 30 to 150 kB packed.
TRIAL_BYTES = 150_000


def document(loaded: Loaded, specs: Sequence[TrialSpec], seed: int) -> dict[str, Any]:
    """The plan as plain values: blocks in order, trials, estimates in seconds and bytes."""
    blocks = []
    known = {
        kind: learned.learn(loaded.matrix.name, kind) for kind in {s.machine.kind for s in specs}
    }
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
                "seconds": _block_seconds(members, known[members[0].machine.kind]),
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
        "learned_from": sum(found.campaigns for found in known.values() if found),
        "bytes": TRIAL_BYTES * len(specs),
        "power": power(loaded),
        "blocks": blocks,
    }


def power(loaded: Loaded) -> dict[str, Any]:
    """What so many trials a cell can find out; see `stats.sequential.plan`."""
    trials = loaded.matrix.trials
    stop = trials.stop
    if stop is None:
        return sequential.plan(trials.max)
    return sequential.plan(trials.max, below=stop.below, above=stop.above, alpha=stop.alpha)


def _power_lines(found: dict[str, Any], loaded: Loaded) -> list[str]:
    """The same for people."""
    most = words.count(found["max"], "trial")
    seen = words.percent(found["seen_once"])
    lines = [f"with {most} a cell: no death leaves at most {seen} possible (95%)"]
    if found["detectable"] is None:
        lines.append("two cells can not be told apart with so few, whatever their rates")
    else:
        lines.append(
            f"a rise from 0% to {words.percent(found['detectable'])} between two cells is found "
            "with 80%"
        )
    rises = ", ".join(f"{words.percent(float(r))} {n}" for r, n in found["needed"].items())
    lines.append(f"trials a cell that find a rise from 0% to: {rises}")
    if found["expected"]:
        each = ", ".join(
            f"{n:.0f} at {words.percent(float(rate))}" for rate, n in found["expected"].items()
        )
        errors = found["errors"]
        lines.append(f"with the stop rule a cell needs, on average by its true rate: {each}")
        open_ = words.percent(errors["undecided_between"])
        if found["fixed"] is None:
            lines.append(f"at the rate itself {open_} stay undecided")
        else:
            lines.append(
                f"a fixed number would be {found['fixed']}; between the two rates {open_} stay "
                "undecided"
            )
    worst = [float(rate) for rate in loaded.matrix.tolerance.values()]
    if worst and found["seen_once"] > min(worst):
        lines.append(
            f"a tolerance of {words.percent(min(worst))} can not be shown to be kept: "
            f"{needed(min(worst))} trials without a death would"
        )
    return lines


def needed(rate: float) -> int:
    """Trials without a death that rule a rate out, 95 %.

    >>> needed(0.05), needed(0.01)
    (59, 299)
    """
    return math.ceil(math.log(0.05) / math.log1p(-rate)) if 0 < rate < 1 else 1


def _block_seconds(members: Sequence[TrialSpec], found: Learned | None) -> float:
    start = START_SECONDS[members[0].machine.kind]
    if found is None:
        return start + sum(map(_seconds, members))
    if found.start is not None:
        start = found.start
    return start + sum(found.seconds(s.cell) for s in members)


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
    if plan["learned_from"]:
        print(f"the time is what {words.count(plan['learned_from'], 'earlier campaign')} took")
    print("\n".join(_power_lines(plan["power"], loaded)))
    for block in plan["blocks"]:
        machine = ", ".join(
            f"{key} {units.show_size(value) if key in {'memory', 'disk'} else value}"
            for key, value in block["machine"].items()
        )
        print(f"\nblock {block['block']}: {machine}")
        for cell, run in itertools.groupby(block["trials"], key=lambda t: t.rpartition("/")[0]):
            print(f"  {cell}  {', '.join(t.rpartition('/')[2] for t in run)}")
    return 0
