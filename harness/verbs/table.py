"""`table`: what a stored campaign came to. Needs neither engine nor machine."""

from __future__ import annotations

import json as jsonlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import process, store, units
from harness.errors import BadInput, Problem
from harness.model.sizes import differences
from harness.report import curves, tally
from harness.report import table as tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.report.table import Table

WIDTH = 120


def main(
    campaign: str | None = None,
    *,
    json: bool = False,
    markdown: bool = False,
    level: str = "",
    picture: str = "",
) -> int:
    """Print the table of a campaign; the exit code says how it keeps its tolerance.

    Args:
        level: The rate whose crossing dose-response curves show, such as 10%.
        picture: Where to write those curves as SVG files: a folder.
    """
    opened = store.Campaign.open(campaign or None)
    table = of(opened, level=_level(level))
    if picture:
        _pictures(table, Path(picture))
    return show(table, json=json, markdown=markdown)


def _level(text: str) -> float:
    if not text:
        return curves.DEFAULT_LEVEL
    try:
        return units.parse_rate(text)
    except ValueError as error:
        problem = Problem("command line", f"--level {text}", str(error), "--level 10%")
        raise BadInput([problem], about="the command line") from None


def _pictures(table: Table, folder: Path) -> None:
    if not table.responses:
        why = "no axis has four or more numbers, so there is no curve"
        raise BadInput(
            [Problem("command line", "--picture", why, "sweep more values of one axis")],
            about="the command line",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for number, response in enumerate(table.responses, start=1):
        path = folder / f"{response.axis}-{number}.svg"
        path.write_text(curves.svg(response))
        print(path, file=sys.stderr)


def show(table: Table, *, json: bool, markdown: bool = False) -> int:
    """The result on stdout, in the one form that was asked for."""
    if json:
        print(jsonlib.dumps({"error": None, **table.document()}, ensure_ascii=False))
    elif markdown:
        from harness.report import text

        print(text.markdown(table))
    else:
        # As wide as the page, but never so narrow that nothing fits.
        print(table.text(max(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)))
    return int(table.exit)


def lines(path: Path) -> Iterator[bytes]:
    """A file's lines; none where there is no file. A torn line is the reader's to skip."""
    try:
        file = open(path, "rb", buffering=1 << 20)
    except FileNotFoundError:
        return
    with file:
        yield from file


def counts(campaign: store.Campaign) -> tally.Tally:
    """Both files in one pass each; memory grows by some hundred bytes a trial."""
    return tally.count_lines(
        lines(campaign.path / "trials.jsonl"), lines(campaign.path / "verdicts.jsonl")
    )


def of(campaign: store.Campaign, *, level: float = curves.DEFAULT_LEVEL) -> Table:
    """The table of what is stored, with what the campaign's meta says about it."""
    return with_meta(counts(campaign), campaign.meta(), name=campaign.name, level=level)


def with_meta(
    counted: tally.Tally, meta: dict[str, Any], *, name: str, level: float = curves.DEFAULT_LEVEL
) -> Table:
    """Counts and campaign.yaml → table.

    Of meta are used: matrix (name), tolerance, cells [{cell, config}], stopped
    {cell: why}, watched, ending, machine {kind, …}, machines [{asked, effective}], attribution {…},
    control (a cell).
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
        control=meta.get("control"),
        level=level,
        stopped=meta.get("stopped"),
        watched=bool(meta.get("watched")),
        growing=meta.get("ending") in {None, store.Ended.INTERRUPTED.value},
        notes=_not_as_asked(meta.get("machines") or ()),
        called=process.called(),
    )


def _not_as_asked(machines: Sequence[dict[str, Any]]) -> list[str]:
    """A row is named after what was asked for: where a machine had another size, it is said."""
    lines = [
        f"the machine's {line}"
        for one in machines
        for line in differences(one.get("asked") or {}, one.get("effective") or {})
    ]
    return list(dict.fromkeys(lines))
