"""One night in Markdown: what it came to, what changed, what was found, and the nights before.

Law: takes finished results and says them; nothing is computed but the trend's sums.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from harness.report import compare_text, text, words
from harness.stats import intervals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.report.compare import Comparison
    from harness.report.table import Table

FORMAT = "deathbench.nightly/1"
_SHOWN = 14
_HEADLINES = {
    0: "fine", 2: "inconclusive", 3: "the environment broke off", 4: "worse", 130: "interrupted",
}  # fmt: skip


def figures(table: Table, *, campaign: str, started: str | None, code: int) -> dict[str, Any]:
    """What is kept of a night for ever: counts with their denominators."""
    return {
        "campaign": campaign,
        "started": started,
        "exit": code,
        "died": sum(row.died for row in table.rows),
        "trials": sum(row.observed for row in table.rows),
        "cells": [
            {
                "config": row.config, "died": row.died, "trials": row.observed,
                "hypotheses": row.hypotheses,
            }
            for row in table.rows
        ],
    }  # fmt: skip


def trend(nights: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The last nights as rows: when, deaths of trials, rate with interval, exit code."""
    rows = []
    for night in nights[-_SHOWN:]:
        died, trials = int(night["died"]), int(night["trials"])
        rate = text.interval(intervals.rate(died, trials)) if trials else "-"
        when = str(night.get("started") or night["campaign"])[:10]
        rows.append([when, f"{died}/{trials}", rate, _HEADLINES.get(int(night["exit"]), "?")])
    return rows


def summary(
    table: Table,
    *,
    code: int,
    comparison: Comparison | None,
    baseline: str | None,
    bisect: Mapping[str, Any] | None,
    nights: Sequence[Mapping[str, Any]],
    notes: Sequence[str] = (),
) -> str:
    """summary.md."""
    name = table.matrix or "nightly"
    parts = [f"# {name}: {_HEADLINES.get(code, str(code))}", ""]
    parts += [f"- {note}" for note in notes]
    if notes:
        parts.append("")
    parts += ["## Tonight", "", text.markdown(table), ""]
    if comparison is not None:
        parts += [f"## Against {baseline}", ""]
        body = compare_text.render(comparison, only_changed=True, style="github")
        parts += [body, ""]
    else:
        parts += ["## Against", "", "no earlier good campaign of this matrix", ""]
    if bisect is not None:
        parts += ["## What changed it", "", *map(_item, bisect["lines"]), ""]
    rows = trend(nights)
    if rows:
        head = ["night", "died", "rate [95%]", ""]
        parts += [
            "## Nights",
            "",
            tabulate(rows, head, tablefmt="github", disable_numparse=True),
            "",
        ]
    return "\n".join(parts)


def _item(line: str) -> str:
    """A line of an answer as one of a list; what it indents stays below the line before."""
    return f"  - {line.strip()}" if line.startswith(" ") else f"- {line}"


def worst(comparison: Comparison) -> dict[str, Any] | None:
    """The configuration that got worse most surely; where all together did, most likely."""
    found = [c for c in comparison.cells if c.difference[0] > 0]
    if not found:
        return None
    return min(found, key=lambda c: (c.q, c.p, -c.difference[0])).config


def headline(code: int, table: Table) -> str:
    """One line for a terminal or a mail's subject."""
    died = sum(row.died for row in table.rows)
    observed = sum(row.observed for row in table.rows)
    said = _HEADLINES.get(code, str(code))
    return f"{table.matrix or 'nightly'}: {said}, {words.count(died, 'death')} in {observed} trials"
