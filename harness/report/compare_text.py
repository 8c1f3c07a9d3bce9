"""A comparison as text and as Markdown. Nothing is computed here but the pivot's sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from harness.model.verdicts import Hypothesis
from harness.report import words
from harness.stats import compare as tests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.report.compare import Cell, Comparison, Counts


def render(
    found: Comparison,
    *,
    only_changed: bool = False,
    row: str | None = None,
    col: str | None = None,
    style: str = "simple",
) -> str:
    """All of it: environment, cells (or a pivot of two axes), hypotheses, the sum."""
    parts = [f"a: {', '.join(found.a)}", f"b: {', '.join(found.b)}", ""]
    parts += _environment(found, style)
    if row and col:
        parts += [_pivot(found, row, col, style), ""]
    cells = [c for c in found.cells if c.direction or not only_changed]
    if cells:
        parts += [_cells(cells, style), ""]
    elif found.cells:
        parts += [f"no cell changed ({words.count(len(found.cells), 'cell')} compared)", ""]
    if found.hypotheses:
        parts += [_hypotheses(found, style), ""]
    parts += _sum(found)
    return "\n".join(parts)


def _environment(found: Comparison, style: str) -> list[str]:
    if not found.environment:
        return []
    body = [[d["what"], _short(d["a"]), _short(d["b"])] for d in found.environment]
    shown = tabulate(body, ["differs", "a", "b"], tablefmt=style, disable_numparse=True)
    if found.paired:
        # Two halves of one campaign: all that differs is what somebody wants to know about.
        return ["in the same blocks, side by side:", "", shown, ""]
    return [
        "warning: the environments differ, so a change need not be the container's",
        "",
        shown,
        "",
    ]


def _short(content: Any) -> str:
    text = "-" if content is None else str(content)
    return text if len(text) <= 48 else text[:45] + "..."


def _rate(counts: Counts) -> str:
    if not counts.observed:
        return "-"
    return f"{counts.died}/{counts.observed} {words.percent(counts.died / counts.observed)}"


def points(rate: float) -> str:
    """A difference of rates in percentage points.

    >>> points(0.25), points(-0.031), points(0.0)
    ('+25pp', '-3.1pp', '0pp')
    """
    number = rate * 100
    if number == 0:
        return "0pp"
    return f"{number:+.0f}pp" if abs(number) >= 10 else f"{number:+.1f}pp"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def _cells(cells: Sequence[Cell], style: str) -> str:
    axes = list(dict.fromkeys(key for c in cells for key in c.config))
    head = axes or ["cell"]
    head = [*head, "a", "b", "difference [95%]", "p", "q", "changed"]
    body = []
    for c in cells:
        point, low, high = c.difference
        line = [words.value(k, c.config.get(k)) if k in c.config else "" for k in axes] or ["base"]
        if c.a.died == c.b.died == 0 and c.a.observed and c.b.observed:
            shown = f"no deaths in either [to {points(high)}]"
        else:
            shown = f"{points(point)} [{points(low)} {points(high)}]"
        line += [_rate(c.a), _rate(c.b), shown, _p(c.p), _p(c.q), c.direction or ""]
        body.append(line)
    return tabulate(body, head, tablefmt=style, disable_numparse=True)


def _hypotheses(found: Comparison, style: str) -> str:
    body = []
    for h in found.hypotheses:
        short = Hypothesis(h.hypothesis).short
        moved = "" if h.pooled.difference is None else points(h.pooled.difference)
        body.append([short, h.a, h.b, moved, _p(h.pooled.p), _p(h.q), h.direction or ""])
    head = ["hypothesis", "a", "b", "difference", "p", "q", "changed"]
    return tabulate(body, head, tablefmt=style, disable_numparse=True)


def _pivot(found: Comparison, row: str, col: str, style: str) -> str:
    """Two axes against each other, the others added up."""
    rows = list(dict.fromkeys(words.value(row, c.config.get(row)) for c in found.cells))
    cols = list(dict.fromkeys(words.value(col, c.config.get(col)) for c in found.cells))
    sums: dict[tuple[str, str], list[int]] = {}
    for c in found.cells:
        at = (words.value(row, c.config.get(row)), words.value(col, c.config.get(col)))
        into = sums.setdefault(at, [0, 0, 0, 0])
        for i, n in enumerate((c.a.died, c.a.observed, c.b.died, c.b.observed)):
            into[i] += n
    body = [[r, *(_change(sums.get((r, c))) for c in cols)] for r in rows]
    return tabulate(body, [f"{row} \\ {col}", *cols], tablefmt=style, disable_numparse=True)


def _change(sums: list[int] | None) -> str:
    if sums is None or not sums[1] or not sums[3]:
        return ""
    a, b = sums[0] / sums[1], sums[2] / sums[3]
    p = tests.boschloo(*sums)
    # One star for this square alone: a hint where to look, not a claim.
    return f"{words.percent(a)} > {words.percent(b)}{'*' if p <= 0.05 else ''}"


def _sum(found: Comparison) -> list[str]:
    overall = found.overall
    lines = []
    if overall.difference is None or overall.low is None or overall.high is None:
        lines.append("nothing to compare: the two have no cell in common")
    else:
        word = found.direction or "no change shown"
        ratio = "" if overall.risk_ratio is None else f", {overall.risk_ratio:.2f} times the rate"
        lines.append(
            f"overall: {word}: {points(overall.difference)} "
            f"[{points(overall.low)} {points(overall.high)}]{ratio}, p {_p(overall.p)} "
            f"(Cochran-Mantel-Haenszel by {found.stratified_by})"
        )
    if found.cells:
        lines.append(
            f"changed: q at most {found.level:g}, Boschloo's test, Benjamini-Hochberg over "
            f"{words.count(len(found.cells), 'cell')}"
        )
    if found.upper is not None:
        if found.upper < 0:
            lines.append(f"b is at least {points(-found.upper)[1:]} below a (95%, one-sided)")
        else:
            lines.append(f"b is at most {points(found.upper)} above a (95%, one-sided)")
    if found.margin is not None:
        word = "shown" if found.no_regression else "not shown"
        line = f"not worse by {words.percent(found.margin)[:-1]}pp or more: {word}"
        if not found.no_regression:
            line += _price(found)
        lines.append(line)
    for name, missing in (("a", found.only_a), ("b", found.only_b)):
        if missing:
            lines.append(
                f"only in {name}: {words.count(len(missing), 'cell')}, e.g. {words.config(missing[0])}"
            )
    return lines


def _price(found: Comparison) -> str:
    """How many trials would have shown it, at the rate of a, all cells together."""
    died = sum(c.a.died for c in found.cells)
    ran = sum(c.a.observed for c in found.cells)
    if not ran or found.margin is None:
        return ""
    needed = tests.trials_for_no_regression(died / ran, found.margin)
    if needed is None:
        return ": more than 3000 trials on each side would be needed"
    return f": {needed} trials on each side would show it if nothing changed"
