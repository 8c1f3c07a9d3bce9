"""`table`: what a stored campaign came to. Needs neither engine nor machine."""

from __future__ import annotations

import json as jsonlib
import shutil
from typing import TYPE_CHECKING, Any

from harness import store
from harness.report import table as tables
from harness.report import tally

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.report.table import Table

WIDTH = 120


def main(campaign: str | None = None, *, json: bool = False, markdown: bool = False) -> int:
    """Print the table of a campaign; the exit code says how it keeps its tolerance."""
    table = of(store.Campaign.open(campaign or None))
    return show(table, json=json, markdown=markdown)


def show(table: Table, *, json: bool, markdown: bool = False) -> int:
    """The result on stdout, in the one form that was asked for."""
    if json:
        print(jsonlib.dumps(table.document(), ensure_ascii=False))
    elif markdown:
        from harness.report import text

        print(text.markdown(table))
    else:
        # As wide as the page, but never so narrow that nothing fits.
        print(table.text(max(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)))
    return int(table.exit)


def lines(path: Path) -> Iterator[str]:
    """A file's lines; none where there is no file. A torn line is the reader's to skip."""
    try:
        file = open(path, encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    with file:
        yield from file


def counts(campaign: store.Campaign) -> tally.Tally:
    """Both files in one pass each; memory grows by some hundred bytes a trial."""
    return tally.count_lines(
        lines(campaign.path / "trials.jsonl"), lines(campaign.path / "verdicts.jsonl")
    )


def of(campaign: store.Campaign) -> Table:
    """The table of what is stored, with what the campaign's meta says about it."""
    return with_meta(counts(campaign), campaign.meta(), name=campaign.name)


def with_meta(counted: tally.Tally, meta: dict[str, Any], *, name: str) -> Table:
    """Counts and campaign.yaml → table.

    Of meta are used: matrix (name), tolerance, cells [{cell, config}], stopped
    {cell: why}, watched, machine {kind, …}, attribution {…}.
    """
    planned = [(c["cell"], c["config"]) for c in meta.get("cells") or ()]
    return tables.from_tally(
        counted,
        campaign=name,
        matrix=meta.get("matrix"),
        machine=meta.get("machine"),
        tolerance=meta.get("tolerance"),
        attribution=meta.get("attribution"),
        cells=planned,
        stopped=meta.get("stopped"),
        watched=bool(meta.get("watched")),
    )
