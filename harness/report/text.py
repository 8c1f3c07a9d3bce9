"""The table as text: one row per cell, what the numbers rest on below it.

Law: nothing is computed here. A column without a single death may go when the page is
too narrow; that it went is said below the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from harness.model.verdicts import Hypothesis
from harness.report import curves, dependence, words
from harness.schedule import ALL_RAN

if TYPE_CHECKING:
    from harness.report.table import Row, Table
    from harness.stats.intervals import Interval

WATCHED = "*"


def render(table: Table, width: int = 120) -> str:
    """All of it: title, cells, legend, evidence, tolerance, attribution."""
    shown = _grid(table, list(Hypothesis), "simple")
    dropped: list[Hypothesis] = []
    if _width(shown) > width:
        killers = [h for h in Hypothesis if any(h.value in row.hypotheses for row in table.rows)]
        dropped = [h for h in Hypothesis if h not in killers]
        shown = _grid(table, killers, "simple")
    parts = [_title(table), "", shown, "", *_below(table, dropped)]
    return "\n".join(parts)


def markdown(table: Table) -> str:
    """The same for a summary file."""
    shown = _grid(table, list(Hypothesis), "github")
    return "\n".join(
        [f"### {_title(table)}", "", shown, "", *(f"- {x}" for x in _below(table, []))]
    )


def _width(text: str) -> int:
    return max((len(line) for line in text.splitlines()), default=0)


def _title(table: Table) -> str:
    named = {
        "kind": "{}",
        "engine": "Docker {}",
        "kernel": "Linux {}",
        "cgroup": "cgroup v{}",
    }
    where = " · ".join(
        words.format(table.machine[key]) for key, words in named.items() if table.machine.get(key)
    )
    name = table.campaign or table.matrix or "table"
    return f"{name}  {where}".rstrip()


def _axes(table: Table) -> list[str]:
    return list(dict.fromkeys(key for row in table.rows for key in row.config))


def interval(rate: Interval) -> str:
    """`33% [9.7-70%]`; a star where the interval is a confidence sequence."""
    if rate.point is None and rate.low == 0 and rate.high == 1:
        return "-"
    star = WATCHED if "sequence" in rate.method else ""
    return f"{words.percent(rate.point)} [{words.span(rate.low, rate.high)}]{star}"


def _grid(table: Table, hypotheses: list[Hypothesis], style: str) -> str:
    axes = _axes(table)
    # Where every cell ran its planned trials, a column that says so says nothing.
    stopped = any(row.stopped_because not in {None, ALL_RAN} for row in table.rows)
    # Dotted keys break over two lines: the page is narrow, and the group comes first anyway.
    split = style == "simple"
    head = [key.replace(".", ".\n", 1) if split else key for key in axes] or ["cell"]
    head += ["trials", "died", "exec-\nfailed" if split else "exec-failed", "rate [95%]"]
    head += [h.short for h in hypotheses]
    head += ["unob-\nserved" if split else "unobserved", "invalid"]
    if stopped:
        head.append("stopped because")
    body = [_line(row, axes, hypotheses, stopped=stopped) for row in table.rows]
    # `colglobalalign` for all: numbers right, words left, and no guessing from content.
    left = len(axes) or 1
    align = ["left"] * left + ["right"] * 3 + ["left"] + ["right"] * (len(hypotheses) + 2)
    if stopped:
        align.append("left")
    return tabulate(body, head, tablefmt=style, colalign=align, disable_numparse=True)


def _line(row: Row, axes: list[str], hypotheses: list[Hypothesis], *, stopped: bool) -> list[str]:
    line = [words.value(key, row.config[key]) if key in row.config else "" for key in axes]
    line = line or [row.cell]
    line += [str(row.trials), str(row.died), str(row.exec_failed), interval(row.rate)]
    line += [str(row.hypotheses.get(h.value, 0)) for h in hypotheses]
    line += [str(row.unobserved), str(row.invalid)]
    if stopped:
        line.append(row.stopped_because or "")
    return line


def _below(table: Table, dropped: list[Hypothesis]) -> list[str]:
    lines: list[str] = []
    deaths = sum(row.died for row in table.rows)
    observed = sum(row.observed for row in table.rows)
    total = f"{words.count(deaths, 'death')} in {words.count(observed, 'observed trial')}"
    warm_up = sum(row.warm_up for row in table.rows)
    if warm_up:
        total += f", {warm_up} warm-up not counted"
    lines.append(total)
    if dropped:
        lines.append("no deaths of: " + ", ".join(h.short for h in dropped))
    if any("sequence" in row.rate.method for row in table.rows):
        lines.append(
            f"{WATCHED} stopped or watched while it grew: a confidence sequence, true at every stop"
        )
    if any("unobserved" in row.rate.method for row in table.rows):
        lines.append(
            "an interval takes unobserved trials as survived at its lower end, as died at its upper"
        )
    lines += _clusters(table)
    lines += _failed(table)
    lines += _evidence(table)
    lines += _tolerance(table)
    lines += [curves.line(response) for response in table.responses]
    lines += [dependence.line(found) for found in table.dependences if found.flagged]
    lines += list(table.notes)
    if table.attribution is not None:
        lines.append(_attribution(table.attribution))
    return lines


_MOST_CLUSTERS = 12


def _clusters(table: Table) -> list[str]:
    """Deaths and failed execs of the same cause and path, each with one to look at."""
    shown = table.clusters[:_MOST_CLUSTERS]
    if not shown:
        return []
    lines = ["by cause and path:"]
    for c in shown:
        where = words.count(c.cells, "cell")
        steps = " → ".join(c.path) or c.cause
        lines.append(f"  {c.trials} {c.outcome} in {where}: {steps}  ({table.show_line(c)})")
    if len(table.clusters) > _MOST_CLUSTERS:
        lines.append(f"  {len(table.clusters) - _MOST_CLUSTERS} more (--json lists them)")
    return lines


def _failed(table: Table) -> list[str]:
    causes: dict[str, int] = {}
    for row in table.rows:
        for cause, n in row.exec_failed_causes.items():
            causes[cause] = causes.get(cause, 0) + n
    if not causes:
        return []
    named = ", ".join(f"{cause} {n}" for cause, n in sorted(causes.items(), key=lambda x: -x[1]))
    return [f"execs that failed in a living container: {named}"]


def _evidence(table: Table) -> list[str]:
    e = table.evidence
    if not e.verdicts:
        return ["evidence: no death and no failed exec, so no verdict"]
    sure = ", ".join(f"{n} {word}" for word, n in sorted(e.certainty.items()))
    lines = [f"evidence: {words.count(e.verdicts, 'verdict')} ({sure})"]
    if e.saw:
        saw = ", ".join(f"{s} {n}/{e.verdicts}" for s, n in e.saw.most_common())
        lines.append(f"  saw: {saw}")
    for (source, why), n in e.blind.most_common(6):
        lines.append(f"  blind: {source} in {words.count(n, 'trial')}: {why}")
    if len(e.blind) > 6:
        lines.append(f"  blind: {len(e.blind) - 6} more kinds of gap (--json lists them)")
    return lines


def _tolerance(table: Table) -> list[str]:
    if not table.tolerance:
        return []
    limits = ", ".join(f"{of} {words.percent(rate)}" for of, rate in table.tolerance.items())
    if not table.outside:
        return [f"tolerance ({limits}): kept in every cell"]
    lines = [f"tolerance ({limits}):"]
    configs = {row.cell: row.config for row in table.rows}
    above = [j for j in table.outside if j.above]
    open_ = [j for j in table.outside if not j.above]
    lines += [
        f"  above: {words.config(configs[j.cell])}: {j.of} {interval(j.rate)}" for j in above[:12]
    ]
    if len(above) > 12:
        lines.append(f"  above: {len(above) - 12} more")
    if open_:
        lines.append(
            f"  not decided yet: {words.count(len(open_), 'rate')} (more trials would tell)"
        )
    return lines


def _attribution(found: dict[str, Any]) -> str:
    """`attribution here: 1,034/1,040 right, 6 unknown, 0 wrong`, and by which rules."""
    n = found.get("n") or sum(int(found.get(k) or 0) for k in ("right", "unknown", "wrong"))
    right, unknown, wrong = (int(found.get(k) or 0) for k in ("right", "unknown", "wrong"))
    named = f" (version {found['version']})" if found.get("version") else ""
    return f"attribution here: {right:,}/{n:,} right, {unknown:,} unknown, {wrong:,} wrong{named}"
