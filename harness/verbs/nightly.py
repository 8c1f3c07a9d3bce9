"""`nightly MATRIX`: sweep, compare with the last good night, bisect what got worse, report.

Rule: a night that broke off is no good one and is compared with nothing. What is kept for
ever are figures, one line a night; histories of old nights go (`keep:`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json as jsonlib
import shutil
import sys
from typing import TYPE_CHECKING, Any

from harness import clock, matrix, spec, store
from harness.errors import DeathbenchError, ExitCode
from harness.report import compare as comparisons
from harness.report import environment, junit, nightly
from harness.store import Campaign, Ended
from harness.verbs import hunting, hunts, sweep, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.report.compare import Comparison
    from harness.report.table import Table
    from harness.scale import Options
    from harness.spec import Loaded

# A bisection needs some twenty trials to say anything; with less time than this it is not begun.
_LEAST_SECONDS = 60.0
_MOST_BISECT = 200
KEEP = 14


def main(
    matrix_file: str = "",
    *,
    overrides: Sequence[str] = (),
    budget: str = "",
    seed: str = "",
    monitors: str = "",
    against: int = 1,
    no_bisect: bool = False,
    json: bool = False,
) -> int:
    """One night. Exit code: the worst of the table's, the comparison's and the run's own.

    Args:
        budget: For everything; what the sweep leaves is the bisection's.
        against: How many of the last good nights are the baseline, added up.
    """
    if against < 1:
        raise hunting.bad(f"--against {against}", "no night to compare with", "--against 7")
    options = sweep.options(monitors=monitors, budget=budget)
    loaded = spec.load_matrix(sweep.find(matrix_file, "matrix"), overrides)
    number = sweep.seed_of(seed, loaded)
    if options.budget is None:
        options.budget = loaded.matrix.budget
    began = clock.now()
    campaign, how = _sweep(loaded, number, options, quiet=json)
    tonight = table.of(campaign)
    if how == ExitCode.INTERRUPTED:
        return how
    broke = campaign.meta().get("ending") == Ended.ENVIRONMENT.value
    notes = [str(campaign.meta().get("why"))] if broke else []
    name = loaded.matrix.name
    earlier = [] if broke else _good(name, but=campaign.name, most=against)
    comparison = _compared(campaign, earlier)
    left = None if options.budget is None else options.budget - clock.seconds_since(began)
    found = None
    if comparison is not None and comparison.worse and not no_bisect:
        found = _bisect(loaded, campaign, earlier[-1], comparison, options, left, quiet=json)
    code = _code(tonight, comparison, broke=broke)
    _keep(loaded, campaign, tonight, comparison, found, code, notes, earlier)
    if json:
        print((campaign.path / "result.json").read_text())
    else:
        print((campaign.path / "summary.md").read_text())
        print(nightly.headline(code, tonight), file=sys.stderr)
    return code


def _sweep(loaded: Loaded, seed: int, options: Options, *, quiet: bool) -> tuple[Campaign, int]:
    """The sweep as it is run by hand; its table is printed by us, later."""
    cells = matrix.cells(loaded)
    hunting.prepare(cells, options)
    meta = {**sweep.frozen(loaded, seed, options), "nightly": True}
    campaign = Campaign.create(loaded.matrix.name, meta)
    with contextlib.redirect_stdout(io.StringIO()):
        code = sweep.execute(
            loaded, seed, dataclasses.replace(options), campaign=campaign,
            monitors=options.monitors, json=quiet,
        )  # fmt: skip
    return campaign, code


def _good(name: str, *, but: str, most: int) -> list[Campaign]:
    """The last whole nights of a matrix that were not worse than theirs, oldest first."""
    found: list[Campaign] = []
    for campaign, meta in _of_matrix(name):
        if campaign.name == but or meta.get("ending") != Ended.COMPLETE.value:
            continue
        code = meta.get("night")
        if code is None:
            code = int(table.of(campaign).exit)
        if code != ExitCode.WORSE:
            found.append(campaign)
        if len(found) >= most:
            break
    return found[::-1]


def _of_matrix(name: str) -> list[tuple[Campaign, dict[str, Any]]]:
    """All campaigns of a matrix with their meta, newest first."""
    found = []
    for path in store.results_root().glob(f"*-{name}-*/campaign.yaml"):
        if not path.parent.is_symlink():
            campaign = Campaign(path.parent)
            meta = campaign.meta()
            if meta.get("matrix") == name:
                found.append((campaign, meta))
    return sorted(found, key=lambda c: (str(c[1].get("started")), c[0].name), reverse=True)


def _compared(campaign: Campaign, earlier: Sequence[Campaign]) -> Comparison | None:
    if not earlier:
        return None
    return comparisons.build(
        [(c.name, table.counts(c)) for c in earlier],
        [(campaign.name, table.counts(campaign))],
        environment=environment.differences(earlier[-1].meta(), campaign.meta()),
    )


def _bisect(
    loaded: Loaded, tonight: Campaign, good: Campaign, comparison: Comparison, options: Options,
    left: float | None, *, quiet: bool,
) -> dict[str, Any] | None:  # fmt: skip
    """Which changed setting made the worst cell worse; as far as the budget goes."""

    def said(*lines: str, **more: Any) -> dict[str, Any]:
        return {"lines": list(lines), "answer": None, "confidence": None, **more}

    config = nightly.worst(comparison)
    if config is None:
        return said("another cause than before, and in no cell more deaths: nothing to bisect")
    try:
        before = _cell(spec.thaw(good.meta()["frozen"]), config)
        after = _cell(loaded, config)
        if before is None or after is None:
            return said("the worst cell is not in both campaigns' files")
        changed = hunts.settings(before, after)
    except DeathbenchError:
        where = [str(d["what"]) for d in comparison.environment]
        around = ", ".join(where) if where else "nothing that is recorded"
        return said(f"no setting of the worst cell changed; what changed around it: {around}")
    if left is not None and left < _LEAST_SECONDS:
        names = ", ".join(key for key, _, _ in changed)
        return said(f"no budget left to bisect between: {names}")
    hunt = hunts.culprit(before, after, seed=0)
    for question, campaign in ((0, good), (hunt.questions - 1, tonight)):
        for cell in table.counts(campaign).cells.values():
            if cell.config == config:
                hunt.asker.history(question, cell.died, cell.observed)  # type: ignore[attr-defined]
    meta = {**sweep.frozen(loaded, 0, options), "cells": [], "tolerance": {}}
    files = [good.meta()["frozen"], loaded.frozen()]
    meta["bisect"] = {"kind": "culprit", "files": files, "seed": 0, "of": tonight.name}
    campaign = Campaign.create(f"bisect-{loaded.matrix.name}", meta)
    asking, _ = hunting.run(
        hunt, campaign, seed=0, most=_MOST_BISECT,
        options=dataclasses.replace(options, budget=left),
        restart=hunting.restart_cost([before, after], options.auto), quiet=quiet,
    )  # fmt: skip
    answer = hunt.answer()
    lines = list(answer.lines)
    if not answer.found:
        lines[0] = f"not certain: {lines[0]}"
        if asking.given_up:
            lines.append(asking.given_up)
    trials = len(asking.steps)
    return {
        "lines": [*lines, f"{trials} trials, campaign {campaign.name}"],
        "answer": answer.value if answer.found else None, "best": answer.value,
        "confidence": answer.confidence, "campaign": campaign.name, "trials": trials,
        "cell": config,
    }  # fmt: skip


def _cell(loaded: Loaded, config: Mapping[str, Any]) -> Any:
    return next((c for c in matrix.cells(loaded) if dict(c.config) == config), None)


def _code(tonight: Table, comparison: Comparison | None, *, broke: bool) -> int:
    if broke:
        return int(ExitCode.ENVIRONMENT)
    codes = [tonight.exit, ExitCode.OK if comparison is None else comparison.exit]
    for code in (ExitCode.WORSE, ExitCode.INCONCLUSIVE):
        if code in codes:
            return int(code)
    return int(ExitCode.OK)


# --- what stays -----------------------------------------------------------------------------


def _keep(
    loaded: Loaded, campaign: Campaign, tonight: Table, comparison: Comparison | None,
    found: Mapping[str, Any] | None, code: int, notes: Sequence[str], earlier: Sequence[Campaign],
) -> None:  # fmt: skip
    """summary.md, junit.xml, result.json; the line that stays for ever; old nights thinned."""
    name = loaded.matrix.name
    started = campaign.meta().get("started")
    figures = store.results_root() / f"nights-{name}.jsonl"
    line = nightly.figures(tonight, campaign=campaign.name, started=started, code=code)
    store.append_line(figures, line, sync=True)
    nights = list(store.read_lines(figures))
    baseline = ", ".join(c.name for c in earlier) or None
    document = {
        "format": nightly.FORMAT, "exit": code, "campaign": campaign.name, "matrix": name,
        "baseline": baseline, "table": tonight.document(),
        "compare": None if comparison is None else comparison.document(),
        "bisect": None if found is None else dict(found), "trend": nights[-60:],
        "notes": list(notes),
    }  # fmt: skip
    text = nightly.summary(
        tonight,
        code=code,
        comparison=comparison,
        baseline=baseline,
        bisect=found,
        nights=nights,
        notes=notes,
    )
    error = notes[0] if notes else None
    path = campaign.path
    store.replace_file(path / "summary.md", text)
    store.replace_file(path / "junit.xml", junit.render(tonight, comparison, error))
    store.replace_file(
        path / "result.json", jsonlib.dumps(document, ensure_ascii=False, default=str)
    )
    campaign.update_meta(night=code)
    campaign.make_latest()
    thin(name, keep=loaded.matrix.keep or KEEP)


def thin(name: str, *, keep: int) -> list[str]:
    """Remove the histories of all but the last `keep` nights; counts and reports stay.

    A night that found something worse keeps its histories: they are the evidence.
    """
    nights = [
        (campaign.path, meta.get("night"))
        for campaign, meta in _of_matrix(name)
        if meta.get("nightly") and (campaign.path / "trials").is_dir()
    ]
    thinned = []
    for folder, code in nights[keep:]:
        if code != ExitCode.WORSE:
            shutil.rmtree(folder / "trials")
            thinned.append(folder.name)
    return thinned
