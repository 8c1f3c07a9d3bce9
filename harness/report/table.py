"""The table: what a campaign came to, cell by cell, and the exit code that follows.

Law: frozen and complete before it is printed; text and JSON are two views of the same
`Table`. Rates, intervals and the verdict on the tolerance come from counts alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.errors import ExitCode
from harness.model.verdicts import Hypothesis
from harness.report import curves, dependence, tally
from harness.stats import intervals
from harness.stats.drift import FEW
from harness.stats.drift import test as test_drift

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harness.stats.drift import Drift
    from harness.stats.intervals import Interval

FORMAT = "deathbench.table/1"
ANY = "any"


@dataclass(frozen=True, slots=True)
class Row:
    """One cell. Counts leave warm-up trials out.

    Attributes:
        trials: died + survived + exec_failed + unobserved + invalid.
        rate: Of deaths among the observed; its ends allow for the unobserved.
        hypothesis_rates: Per hypothesis that killed anywhere in the table, all right at
            once with 95 % within the cell; `+unknown` where undecided deaths widen them.
        stopped_because: Why no more trials were run; None where nobody recorded it.
    """

    cell: str
    config: dict[str, Any]
    trials: int
    died: int
    survived: int
    exec_failed: int
    unobserved: int
    invalid: int
    warm_up: int
    unjudged: int
    rate: Interval
    exec_failed_rate: Interval
    hypotheses: dict[str, int]
    hypothesis_rates: dict[str, Interval]
    causes: dict[str, int]
    exec_failed_hypotheses: dict[str, int]
    exec_failed_causes: dict[str, int]
    stopped_because: str | None

    @property
    def observed(self) -> int:
        return self.died + self.survived + self.exec_failed

    def document(self) -> dict[str, Any]:
        return {
            "cell": self.cell,
            "config": self.config,
            "trials": self.trials,
            "died": self.died,
            "survived": self.survived,
            "exec_failed": self.exec_failed,
            "unobserved": self.unobserved,
            "invalid": self.invalid,
            "warm_up": self.warm_up,
            "unjudged": self.unjudged,
            "rate": self.rate.document(),
            "exec_failed_rate": self.exec_failed_rate.document(),
            "hypotheses": self.hypotheses,
            "hypothesis_rates": {h: i.document() for h, i in self.hypothesis_rates.items()},
            "causes": self.causes,
            "exec_failed_hypotheses": self.exec_failed_hypotheses,
            "exec_failed_causes": self.exec_failed_causes,
            "stopped_because": self.stopped_because,
        }


@dataclass(frozen=True, slots=True)
class Judged:
    """One cell's rate beside one tolerance that it does not clearly keep."""

    cell: str
    of: str
    tolerance: float
    rate: Interval
    above: bool

    def document(self) -> dict[str, Any]:
        return {
            "cell": self.cell,
            "of": self.of,
            "tolerance": self.tolerance,
            "rate": self.rate.document(),
            "above": self.above,
        }


@dataclass(frozen=True, slots=True)
class Table:
    """A campaign's table.

    Attributes:
        machine: {kind, kernel, engine, cgroup, …} as recorded in the campaign.
        attribution: How good verdicts are here: {right, unknown, wrong, version} or None.
        outside: Rates above a tolerance, or not surely below it.
        notes: What else a reader must know, one sentence each (drift, trials unjudged).
        drift: Whether the machine changed while the trials ran; None where the order of
            trials depended on their outcomes, or where too few died to say.
        responses: Dose-response curves of axes with four or more numbers.
        control: The cell that is there to show drift; it counts against no tolerance.
        clusters: Trials of the same cause and path, the largest first.
        dependences: Whether deaths called otherwise than a race depend on a delay.
        called: How the user calls the program, for lines to copy.
    """

    campaign: str | None
    matrix: str | None
    machine: dict[str, Any]
    attribution: dict[str, Any] | None
    rows: tuple[Row, ...]
    evidence: tally.Evidence
    tolerance: dict[str, float]
    outside: tuple[Judged, ...]
    notes: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    drift: Drift | None = None
    responses: tuple[curves.Response, ...] = ()
    control: str | None = None
    clusters: tuple[tally.Cluster, ...] = ()
    dependences: tuple[dependence.Dependence, ...] = ()
    called: str = ""

    def show_line(self, cluster: tally.Cluster) -> str:
        """What to type to see a cluster's representative."""
        where = f"{self.campaign}:{cluster.trial}" if self.campaign else cluster.trial
        return f"{self.called} show {where}".strip()

    @property
    def exit(self) -> ExitCode:
        """4: some rate is surely above its tolerance; 2: one may be; else 0."""
        if any(j.above for j in self.outside):
            return ExitCode.WORSE
        return ExitCode.INCONCLUSIVE if self.outside else ExitCode.OK

    def document(self) -> dict[str, Any]:
        """The `table` document of `--json`."""
        evidence = self.evidence
        return {
            "format": FORMAT,
            "campaign": self.campaign,
            "matrix": self.matrix,
            "exit": int(self.exit),
            "machine": self.machine,
            "attribution": self.attribution,
            "cells": [row.document() for row in self.rows],
            "tolerance": self.tolerance,
            "outside_tolerance": [j.document() for j in self.outside],
            "evidence": {
                "verdicts": evidence.verdicts,
                "certainty": dict(evidence.certainty),
                "saw": dict(evidence.saw),
                "blind": [
                    {"source": source, "why": why, "trials": n}
                    for (source, why), n in evidence.blind.most_common()
                ],
            },
            "notes": list(self.notes),
            "drift": None if self.drift is None else self.drift.document(),
            "control": self.control,
            "responses": [r.document() for r in self.responses],
            "clusters": [
                {
                    "outcome": c.outcome,
                    "hypothesis": c.hypothesis,
                    "cause": c.cause,
                    "path": list(c.path),
                    "trials": c.trials,
                    "cells": c.cells,
                    "representative": c.trial,
                    "show": self.show_line(c),
                }
                for c in self.clusters
            ],
            "dependences": [d.document() for d in self.dependences],
            **self.extra,
        }

    def text(self, width: int = 120) -> str:
        """The table for people. See `report.text`."""
        from harness.report import text

        return text.render(self, width)


def build(
    records: Iterable[dict[str, Any]],
    verdicts: Iterable[dict[str, Any]],
    *,
    campaign: str | None = None,
    matrix: str | None = None,
    machine: Mapping[str, Any] | None = None,
    tolerance: Mapping[str, float] | None = None,
    attribution: Mapping[str, Any] | None = None,
    cells: Iterable[tuple[str, dict[str, Any]]] = (),
    stopped: Mapping[str, str] | None = None,
    watched: bool = False,
    notes: Iterable[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> Table:
    """Records and verdicts → table.

    Args:
        records: Objects with the keys of `TrialRecord`, as in trials.jsonl.
        verdicts: {trial, outcome, death, verdict, why}, as in verdicts.jsonl.
        tolerance: "any" or a hypothesis → rate 0-1.
        cells: The planned cells, (cell, config); those without a trial get a row too.
        stopped: Cell → why it got no more trials.
        watched: The number of trials depended on what was seen (a stop rule, deaths to
            wait for, a budget spent where it is least decided): intervals are confidence
            sequences then.
        extra: More keys for the JSON document.
    """
    counts = tally.count(records, verdicts)
    return from_tally(
        counts, campaign=campaign, matrix=matrix, machine=machine, tolerance=tolerance,
        attribution=attribution, cells=cells, stopped=stopped, watched=watched, notes=notes,
        extra=extra,
    )  # fmt: skip


def from_tally(
    counts: tally.Tally,
    *,
    campaign: str | None = None,
    matrix: str | None = None,
    machine: Mapping[str, Any] | None = None,
    tolerance: Mapping[str, float] | None = None,
    attribution: Mapping[str, Any] | None = None,
    cells: Iterable[tuple[str, dict[str, Any]]] = (),
    stopped: Mapping[str, str] | None = None,
    watched: bool = False,
    notes: Iterable[str] = (),
    extra: Mapping[str, Any] | None = None,
    control: str | None = None,
    growing: bool = False,
    level: float = curves.DEFAULT_LEVEL,
    called: str = "",
) -> Table:
    """As `build`, from counts that are there already.

    Args:
        growing: Trials are still to come, or somebody who saw the others ended them: the
            intervals are confidence sequences, whatever the rule.
        control: A cell that is there to show drift and for nothing else.
        level: The rate whose crossing the curves show.
        called: How the user calls the program.
    """
    planned = {name: tally.CellCounts(name, config) for name, config in cells}
    every = {**planned, **counts.cells}
    in_order = {
        c.cell: c for c in sorted(every.values(), key=lambda c: (*tally.place(c.config), c.cell))
    }
    seen = {h for c in counts.cells.values() for h in c.hypotheses}
    killers = tuple(h.value for h in Hypothesis if h.value in seen)
    rows = tuple(
        # How long the control ran depended on the others, never on its own deaths.
        _row(
            c,
            killers,
            (stopped or {}).get(c.cell),
            watched=growing or (watched and c.cell != control),
        )
        for c in in_order.values()
    )
    limits = {str(name): float(rate) for name, rate in (tolerance or {}).items()}
    unjudged = sum(row.unjudged for row in rows)
    said = list(notes)
    if unjudged:
        said.append(f"{unjudged} finished trials have no verdict yet: run judge")
    moved = _drift(counts, control, watched=watched)
    if control is not None and control in in_order:
        said.append(_of_control(in_order[control], moved))
    if moved is not None and moved.flagged:
        least = min(p for p in (moved.trend, moved.cusum) if p is not None)
        said.append(
            f"the machine drifted: {moved.direction}, most at {100 * (moved.at or 0):.0f}% of the "
            f"trials (p {max(least, 0.0001):.4f}); compare cells of different times with care"
        )
    return Table(
        campaign=campaign,
        matrix=matrix,
        machine=dict(machine or {}),
        attribution=None if attribution is None else dict(attribution),
        rows=rows,
        evidence=counts.evidence,
        tolerance=limits,
        outside=tuple(
            _outside(
                (row for row in rows if row.cell != control), limits, watched=watched or growing
            )
        ),
        notes=tuple(said),
        extra=dict(extra or {}),
        drift=moved,
        responses=tuple(_responses(rows, level)),
        clusters=tuple(counts.clusters),
        # Where trials went on or stopped by what was seen, equal chances are not to be expected.
        dependences=() if watched else dependence.find(rows),
        called=called,
        control=control,
    )


def _of_control(cell: tally.CellCounts, moved: Drift | None) -> str:
    """What the control cell was good for."""
    said = f"control cell {cell.cell}: {cell.died} of {cell.observed} died"
    if moved is None:
        return (
            f"{said}; too one-sided or too few to show a drift: it needs {FEW} deaths and "
            f"{FEW} survivals"
        )
    tests = f"trend p {moved.trend:.2g}, CUSUM p {moved.cusum:.2g}"
    return f"{said}; {'it shows a drift' if moved.flagged else 'no drift shown'} ({tests})"


# More curves than this are a table of their own; --json and --curve still give each.
_MOST_CURVES = 8


def _responses(rows: tuple[Row, ...], level: float) -> list[curves.Response]:
    found: list[curves.Response] = []
    for axis in curves.axes(rows):
        found += curves.responses(rows, axis, level)
    return found[:_MOST_CURVES]


def _drift(counts: tally.Tally, control: str | None, *, watched: bool) -> Drift | None:
    cells = counts.cells
    if control is not None and control in cells:
        chosen = [cells[control]]
    elif watched:
        # A cell that stops at a death has its deaths late: that is no drift.
        return None
    else:
        chosen = list(cells.values())
    died = sum(c.died for c in chosen)
    if min(died, sum(c.observed for c in chosen) - died) < FEW:
        return None
    found = test_drift((c.order, c.died_in_order) for c in chosen)
    return None if found.trend is None else found


def _row(
    c: tally.CellCounts, killers: tuple[str, ...], stopped: str | None, *, watched: bool
) -> Row:
    undecided = c.hypotheses.get(Hypothesis.UNKNOWN.value, 0)
    named = {h: c.hypotheses.get(h, 0) for h in killers if h != Hypothesis.UNKNOWN.value}
    return Row(
        cell=c.cell,
        config=c.config,
        trials=c.trials,
        died=c.died,
        survived=c.survived,
        exec_failed=c.exec_failed,
        unobserved=c.unobserved,
        invalid=c.invalid,
        warm_up=c.warm_up,
        unjudged=c.unjudged,
        rate=intervals.rate(c.died, c.observed, unobserved=c.unobserved, watched=watched),
        exec_failed_rate=intervals.rate(
            c.exec_failed, c.observed, unobserved=c.unobserved, watched=watched
        ),
        hypotheses={h.value: c.hypotheses[h.value] for h in Hypothesis if c.hypotheses[h.value]},
        hypothesis_rates=intervals.simultaneous(
            named,
            c.observed,
            of=len(Hypothesis) - 1,
            unknown=undecided,
            unobserved=c.unobserved,
            watched=watched,
        ),
        causes=dict(c.causes.most_common()),
        exec_failed_hypotheses=dict(c.exec_failed_hypotheses.most_common()),
        exec_failed_causes=dict(c.exec_failed_causes.most_common()),
        stopped_because=stopped,
    )


def _outside(
    rows: Iterable[Row], tolerance: Mapping[str, float], *, watched: bool
) -> Iterable[Judged]:
    for row in rows:
        for of, limit in tolerance.items():
            rate = row.rate if of == ANY else _rate_of(row, of, watched=watched)
            if rate.low > limit:
                yield Judged(row.cell, of, limit, rate, above=True)
            elif rate.high > limit:
                yield Judged(row.cell, of, limit, rate, above=False)


def _rate_of(row: Row, hypothesis: str, *, watched: bool) -> Interval:
    """One hypothesis that was named before anybody looked: no correction for many."""
    k = row.hypotheses.get(hypothesis, 0)
    unknown = 0
    if hypothesis != Hypothesis.UNKNOWN.value:
        unknown = row.hypotheses.get(Hypothesis.UNKNOWN.value, 0)
    return intervals.between(
        k, k + unknown + row.unobserved, row.observed + row.unobserved,
        point=k / row.observed if row.observed else None, watched=watched,
    )  # fmt: skip
