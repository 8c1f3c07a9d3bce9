"""`compare A B`: what changed between two campaigns, or two groups of campaigns."""

from __future__ import annotations

import json as jsonlib
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from harness import store, units
from harness.errors import BadInput, Problem
from harness.report import compare as comparisons
from harness.report import compare_text, environment, words
from harness.verbs.table import counts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from harness.report.compare import Comparison
    from harness.report.tally import Tally


def main(
    a: str,
    b: str = "",
    *,
    json: bool = False,
    only_changed: bool = False,
    filters: Sequence[str] = (),
    row: str = "",
    col: str = "",
    margin: str = "",
    markdown: bool = False,
) -> int:
    """Print what changed from a to b.

    Args:
        a, b: A campaign; several, comma-separated, are added up; `memory*7` is the last
            seven campaigns of the matrix `memory`; `NAME@axis=value` takes the cells of
            one campaign with that value, and leaves that axis out. b: the latest.
        filters: axis=value, values as the table prints them.
        margin: "not worse by more than this", such as 5pp.
    """
    found = between(a, b or "latest", filters=filters, margin=_margin(margin))
    _pivot_axes(found, row, col)
    if json:
        print(jsonlib.dumps(found.document(), ensure_ascii=False))
    else:
        style = "github" if markdown else "simple"
        text = compare_text.render(
            found, only_changed=only_changed, row=row or None, col=col or None, style=style
        )
        print(text)
    return int(found.exit)


def between(
    a: str,
    b: str,
    *,
    filters: Sequence[str] = (),
    margin: float | None = None,
) -> Comparison:
    """Open both sides, count, compare."""
    first, second = _Side(a, but=b), _Side(b, but=a)
    _count(first, second)
    only = _filters(filters, [*first.tallies(), *second.tallies()])
    # Two halves of one campaign ran in the same blocks.
    paired = first.names == second.names and first.condition != second.condition
    drop = {c[0] for c in (first.condition, second.condition) if c is not None}
    return comparisons.build(
        first.counted(),
        second.counted(),
        environment=_around(first, second),
        margin=margin,
        only=only,
        paired=paired,
        drop=drop,
    )


LARGE = 32 << 20
"""Bytes of a side's files from which on a second processor is worth its process."""


def _count(first: _Side, second: _Side) -> None:
    """Read both sides, large ones at the same time."""
    if min(first.size, second.size) < LARGE or sys.platform != "linux":
        # Elsewhere a new process would have to load all of this again.
        first.take([counts(c) for c in first.campaigns])
        second.take([counts(c) for c in second.campaigns])
        return
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as other:
        away = [other.submit(counts, c) for c in second.campaigns]
        first.take([counts(c) for c in first.campaigns])
        second.take([one.result() for one in away])


def _around(first: _Side, second: _Side) -> list[dict[str, Any]]:
    """Kernel, engine, settings; of one interleaved campaign: the files of its two halves."""
    if first.names == second.names and "against" in first.meta:
        sides = [{"frozen": first.meta[key]} for key in ("against", "frozen")]
        if first.condition and first.condition[1] == "after":
            sides.reverse()
        return environment.differences(sides[0], sides[1])
    return environment.differences(first.meta, second.meta)


class _Side:
    """One side of a comparison, as the user wrote it.

    Args:
        but: The other side: a campaign that stands there by name is in no group of nights.
    """

    def __init__(self, text: str, *, but: str = "") -> None:
        self.text = text
        names, _, condition = text.partition("@")
        key, _, value = condition.partition("=")
        self.condition = (key, value) if condition else None
        others = _named(but)
        self.campaigns = [c for name in names.split(",") for c in _campaigns(name.strip(), others)]
        self.names = [c.name for c in self.campaigns]
        self.meta: Mapping[str, Any] = self.campaigns[-1].meta()
        self._tallies: list[Tally] = []

    def take(self, counted: Sequence[Tally]) -> None:
        """What its campaigns came to, in their order."""
        self._tallies = [_conditioned(c, self.condition) for c in counted]

    @property
    def size(self) -> int:
        """Bytes that have to be read."""
        files = [
            c.path / name for c in self.campaigns for name in ("trials.jsonl", "verdicts.jsonl")
        ]
        return sum(f.stat().st_size for f in files if f.exists())

    def tallies(self) -> list[Tally]:
        return self._tallies

    def counted(self) -> list[tuple[str, Tally]]:
        tail = "" if self.condition is None else f"@{self.condition[0]}={self.condition[1]}"
        return [(name + tail, t) for name, t in zip(self.names, self._tallies, strict=True)]


def _named(side: str) -> set[Path]:
    """The campaigns of a side that stand there one by one."""
    names = [name.strip() for name in side.partition("@")[0].split(",")]
    return {store.Campaign.open(name).path.resolve() for name in names if name and "*" not in name}


def _campaigns(name: str, others: AbstractSet[Path]) -> list[store.Campaign]:
    matrix, star, number = name.rpartition("*")
    if not star:
        return [store.Campaign.open(name)]
    if not number.isdigit() or int(number) < 1:
        problem = Problem("command line", name, "after * stands how many", f"{matrix}*7")
        raise BadInput([problem], about="the command line")
    root = store.results_root()
    # Names begin with the time, so their order is the order of time.
    there = sorted(p.parent for p in root.glob(f"*-{matrix}-*/campaign.yaml"))
    mine = [store.Campaign(p) for p in there if not p.is_symlink() and p.resolve() not in others]
    chosen = [c for c in mine if c.meta().get("matrix") == matrix][-int(number) :]
    if not chosen:
        problem = Problem(
            "command line", name, f"no campaign of a matrix {matrix!r} below {root}", "another name"
        )
        raise BadInput([problem], about="the command line")
    return chosen


def _conditioned(counted: Tally, condition: tuple[str, str] | None) -> Tally:
    if condition is None:
        return counted
    key, wanted = condition
    kept = {
        name: cell
        for name, cell in counted.cells.items()
        if key in cell.config and words.value(key, cell.config[key]) == wanted
    }
    if not kept:
        there = {words.value(key, c.config[key]) for c in counted.cells.values() if key in c.config}
        raise BadInput(
            [
                Problem(
                    "command line",
                    f"@{key}={wanted}",
                    "no cell has it",
                    f"one of {', '.join(sorted(there))}" if there else "an axis of the campaign",
                )
            ],
            about="the command line",
        )
    counted.cells = kept
    return counted


def _filters(filters: Sequence[str], tallies: Sequence[Tally]) -> dict[str, Any]:
    """axis=value as printed → axis → the plain value of the cells."""
    result: dict[str, Any] = {}
    problems = []
    configs = [cell.config for t in tallies for cell in t.cells.values()]
    for one in filters:
        key, _, wanted = one.partition("=")
        matching = [c[key] for c in configs if key in c and words.value(key, c[key]) == wanted]
        if matching:
            result[key] = matching[0]
            continue
        there = sorted({f"{key}={words.value(key, c[key])}" for c in configs if key in c})
        axes = sorted({k for c in configs for k in c})
        fix = f"one of {', '.join(there)}" if there else f"an axis: {', '.join(axes)}"
        problems.append(Problem("command line", f"--filter {one}", "no cell has it", fix))
    if problems:
        raise BadInput(problems, about="the command line")
    return result


def _pivot_axes(found: Comparison, row: str, col: str) -> None:
    """--row and --col are two axes of the cells that are compared."""
    axes = list(dict.fromkeys(k for c in found.cells for k in c.config))
    fix = f"two of the axes: {', '.join(axes)}" if len(axes) > 1 else "a table of two axes"
    problems = [
        Problem("command line", f"{option} {key}", "no cell has that axis", fix)
        for option, key in (("--row", row), ("--col", col))
        if key and key not in axes
    ]
    if bool(row) != bool(col):
        given, other = ("--row", "--col") if row else ("--col", "--row")
        problems.append(Problem("command line", given, f"{other} is missing", fix))
    if problems:
        raise BadInput(problems, about="the command line")


def _margin(text: str) -> float | None:
    if not text:
        return None
    try:
        return units.parse_rate(text.removesuffix("pp") + "%" if text.endswith("pp") else text)
    except ValueError as error:
        problem = Problem("command line", f"--margin {text}", str(error), "--margin 5pp")
        raise BadInput([problem], about="the command line") from None
