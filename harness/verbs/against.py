"""`sweep MATRIX --against A`: two configurations side by side, so that drift fakes nothing.

Every cell that both have is run in blocks of two, one trial of each in random order. The
campaign holds both halves (axis `against`: before, after) and can be compared again with
`compare CAMPAIGN@against=before CAMPAIGN@against=after`.
"""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import clock, matrix, scale, spec
from harness.matrix import derive
from harness.matrix.order import shuffled
from harness.model.experiment import TrialSpec
from harness.report import compare_text
from harness.report.progress import Progress
from harness.schedule import replay
from harness.store import Campaign
from harness.verbs import compare, hunting, sweep
from harness.verbs.hunting import bad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.matrix import Cell
    from harness.scale import Options
    from harness.spec import Loaded

AXIS = "against"
BEFORE, AFTER = "before", "after"


def interleave(before: Loaded, after: Loaded, seed: int) -> list[TrialSpec]:
    """Both plans as one: pairs in random order, both halves of a pair next to each other.

    Where the two want different machines, a pair is two blocks of one trial's number each:
    the order of the machines is random, round by round.

    Raises:
        BadInput: they have no cell in common.
    """
    halves = {BEFORE: matrix.cells(before), AFTER: matrix.cells(after)}
    configs = [dict(c.config) for c in halves[AFTER]]
    pairs = [
        (a, b) for b in halves[AFTER] for a in halves[BEFORE] if dict(a.config) == dict(b.config)
    ]
    if not pairs:
        raise bad("--against", "the two have no cell in common", f"cells such as {configs[0]}")
    most = min(before.matrix.trials.max, after.matrix.trials.max)
    order = shuffled([(p, n) for n in range(1, most + 1) for p in pairs], seed, "pairs")
    specs: list[TrialSpec] = []
    block = 0
    machine: Any = None
    for (a, b), n in order:
        first = derive(seed, "first", a.name, n) % 2
        arms = [(BEFORE, a), (AFTER, b)] if first else [(AFTER, b), (BEFORE, a)]
        if a.machine != b.machine and machine == arms[1][1].machine:
            # Whichever machine is up goes first: a restart less, and still random.
            arms.reverse()
        for side, cell in arms:
            if machine is not None and cell.machine != machine:
                block += 1
            machine = cell.machine
            name = f"{cell.name[:80]}~{side}"
            trial = f"{name}/{n}"
            specs.append(_trial(cell, name, trial, n, block, {**cell.config, AXIS: side}, seed))
    return specs


def _trial(
    cell: Cell, name: str, trial: str, n: int, block: int, config: dict[str, Any], seed: int
) -> TrialSpec:
    return TrialSpec(
        trial=trial, cell=name, n=n, config=config, experiment=cell.experiment,
        machine=cell.machine, seed=derive(seed, "trial", trial), block=block, warm_up=False,
        neighbours=cell.neighbours,
    )  # fmt: skip


def main(
    loaded: Loaded,
    against: str,
    options: Options,
    *,
    seed: int,
    json: bool,
    margin: float | None = None,
) -> int:
    """Run both, print what changed; exit codes as `compare`."""
    before = _before(against)
    specs = interleave(before, loaded, seed)
    hunting.prepare([*matrix.cells(before), *matrix.cells(loaded)], options)
    meta = {
        **sweep.frozen(loaded, seed, options), "against": before.frozen(), "cells": [],
        "tolerance": {},
    }  # fmt: skip
    return _run(Campaign.create(loaded.matrix.name, meta), specs, options, json=json, margin=margin)


def resume(campaign: Campaign, options: Options, *, json: bool) -> int:
    """Go on with one that was cut off."""
    meta = campaign.meta()
    options.auto = str(meta.get("auto") or options.auto)
    specs = interleave(spec.thaw(meta["against"]), spec.thaw(meta["frozen"]), int(meta["seed"]))
    return _run(campaign, specs, options, json=json, margin=None)


def _run(
    campaign: Campaign,
    specs: Sequence[TrialSpec],
    options: Options,
    *,
    json: bool,
    margin: float | None,
) -> int:
    finished = list(hunting.finished(campaign))
    # Blocks of two stay blocks of two: the trials that a budget leaves are the first ones.
    plan = replay(specs, finished, budget=options.budget, in_order=True)
    progress = Progress(lambda: clock.now() / clock.NS, quiet=json)
    print(f"campaign {campaign.name}: {campaign.path}", file=sys.stderr)
    progress.begin(plan.expected_total(), done=len(finished))
    try:
        ending = scale.run(campaign, plan, progress=progress, options=options)
    finally:
        progress.end()
    campaign.update_meta(
        ended=clock.utc().isoformat(), ending=ending.how.value, why=ending.why, watched=plan.watched
    )
    name = campaign.name
    found = compare.between(f"{name}@{AXIS}={BEFORE}", f"{name}@{AXIS}={AFTER}", margin=margin)
    code = hunting.conclude(campaign, ending, "sweep", int(found.exit))
    if json:
        print(jsonlib.dumps({**found.document(), "exit": code}, ensure_ascii=False))
    else:
        print(compare_text.render(found))
    return code


def _before(text: str) -> Loaded:
    """A file, or what a campaign has frozen."""
    for noun in ("matrix", "experiment"):
        path = sweep.find(text, noun)
        if path.is_file():
            return spec.load(Path(path))
    campaign = Campaign.open(text)
    frozen = campaign.meta().get("frozen")
    if not frozen:
        raise bad(
            f"--against {text}", "that campaign froze no files", "a matrix or another campaign"
        )
    return spec.thaw(frozen)
