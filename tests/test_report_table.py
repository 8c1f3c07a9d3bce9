"""Trials and verdicts become counts, rates, an exit code and text."""

from __future__ import annotations

import io
import json
import random

import pytest

from harness.model.verdicts import Hypothesis
from harness.report import tally
from harness.report.progress import Progress
from harness.report.table import build, from_tally

GIB = 1 << 30


def record(cell, n, *, config=None, warm_up=False, block=0):
    return {
        "format": "deathbench.trial/1",
        "trial": f"{cell}/{n}",
        "cell": cell,
        "n": n,
        "config": config or {"container.memory": 128 << 20, "delay": 0.25},
        "seed": 1,
        "block": block,
        "warm_up": warm_up,
        "began": "2026-11-23T01:23:00Z",
        "exec": None,
    }


def verdict(cell, n, outcome, cause=None, hypothesis="container-resources", **more):
    found = None
    if cause:
        found = {
            "hypothesis": hypothesis,
            "cause": cause,
            "certainty": "certain",
            "path": [cause],
            "grade": {"saw": ["trace", "kmsg"], "blind": []},
            **more,
        }
    return {
        "trial": f"{cell}/{n}",
        "outcome": outcome,
        "death": None,
        "verdict": found,
        "why": None,
    }


def small(**options):
    records = [record("a", n, warm_up=n == 0) for n in range(7)]
    records += [record("b", n, config={"container.memory": None, "delay": 0.25}) for n in range(3)]
    verdicts = [
        verdict("a", 0, "died", "memory-limit-main"),
        verdict("a", 1, "died", "memory-limit-main"),
        verdict("a", 2, "died", "memory-limit-child"),
        verdict("a", 3, "survived"),
        verdict("a", 4, "exec-failed", "exec-timeout", "process-exit"),
        verdict("a", 5, "unobserved"),
        verdict("a", 6, "invalid"),
        *[verdict("b", n, "survived") for n in range(3)],
    ]
    return build(records, verdicts, campaign="c", matrix="memory", **options)


def test_counts_leave_out_warm_up_and_keep_outcomes_apart():
    """Every outcome is counted once, in its own column; warm-up trials in none of them."""
    a, b = small().rows
    assert (a.trials, a.died, a.survived, a.exec_failed, a.unobserved, a.invalid) == (
        6,
        2,
        1,
        1,
        1,
        1,
    )
    assert a.warm_up == 1
    assert a.rate.point == 0.5
    assert a.hypotheses == {"container-resources": 2}
    assert a.causes == {"memory-limit-main": 1, "memory-limit-child": 1}
    assert a.exec_failed_causes == {"exec-timeout": 1}
    assert (b.trials, b.died, b.rate.method) == (3, 0, "exact-one-sided")


def test_the_document_has_every_promised_key():
    """The table document carries its keys always, null where nothing is known."""
    document = json.loads(json.dumps(small().document()))
    assert document["format"] == "deathbench.table/1"
    assert {"campaign", "matrix", "exit", "machine", "attribution", "cells"} <= set(document)
    assert document["attribution"] is None
    cell = document["cells"][0]
    assert set(cell) >= {
        "cell", "config", "trials", "died", "survived", "exec_failed", "unobserved", "invalid",
        "rate", "hypotheses", "causes", "exec_failed_causes", "stopped_because",
    }  # fmt: skip
    assert set(cell["rate"]) == {"point", "low", "high", "method"}
    assert cell["config"]["container.memory"] == 128 << 20
    assert cell["stopped_because"] is None


@pytest.mark.parametrize(
    ("died", "n", "tolerance", "code"),
    [
        pytest.param(0, 6, {}, 0, id="no-tolerance"),
        pytest.param(0, 6, {"any": 0.05}, 2, id="too-few-trials-to-tell"),
        pytest.param(0, 60, {"any": 0.05}, 0, id="surely-below"),
        pytest.param(6, 6, {"any": 0.05}, 4, id="surely-above"),
        pytest.param(6, 6, {"container-resources": 0.05, "race": 0.6}, 4, id="one-hypothesis"),
        pytest.param(0, 0, {"any": 0.05}, 2, id="nothing-known"),
    ],
)
def test_exit_code_follows_the_tolerance(died, n, tolerance, code):
    """Lower bound above it: 4; the interval straddles it: 2; else 0."""
    records = [record("a", i) for i in range(n)]
    verdicts = [
        verdict("a", i, *(("died", "memory-limit-main") if i < died else ("survived",)))
        for i in range(n)
    ]
    cells = [("a", {"container.memory": 1})]
    assert build(records, verdicts, tolerance=tolerance, cells=cells).exit == code


def test_a_trial_without_a_verdict_is_no_survivor():
    """Silence is no evidence of health: unjudged trials are in no rate, and it is said."""
    table = build([record("a", 0), record("a", 1)], [verdict("a", 0, "survived")])
    assert table.rows[0].survived == 1
    assert table.rows[0].unjudged == 1
    assert "no verdict yet" in table.text()


def test_a_trial_judged_twice_counts_as_it_was_last():
    """Verdicts are replaceable; records are not doubled by a resumed sweep."""
    lines = [verdict("a", 0, "survived"), verdict("a", 0, "died", "docker-kill", "external")]
    row = build([record("a", 0), record("a", 0)], lines).rows[0]
    assert (row.trials, row.died, row.hypotheses) == (1, 1, {"external": 1})


def test_text_is_in_human_units_and_keeps_a_column_per_hypothesis():
    """Axes in their units; hypotheses by short name; the evidence below."""
    text = small(
        attribution={"n": 1040, "right": 1034, "unknown": 6, "wrong": 0, "version": "1"}
    ).text(200)
    head = text.splitlines()
    for hypothesis in Hypothesis:
        assert any(hypothesis.short in line for line in head)
    assert "128MiB" in text
    assert "250ms" in text
    assert "none" in text
    assert "50% [" in text
    assert "trace 3/3" in text
    assert "attribution here: 1,034/1,040 right, 6 unknown, 0 wrong (version 1)" in text


def test_a_narrow_page_drops_only_columns_without_deaths():
    """120 columns: what goes is named below, what killed stays."""
    text = small().text(100)
    assert "no deaths of: daemon" in text
    assert "ctr-limit" in text.split("no deaths of")[0]
    assert max(map(len, text.splitlines())) <= 120


def test_watched_cells_are_marked_and_get_a_confidence_sequence():
    """A rate whose number of trials depended on it must not carry Wilson's interval."""
    table = small(watched=True, stopped={"a": "surely above 10%"})
    assert table.rows[0].rate.method == "confidence-sequence+unobserved"
    assert "*" in table.text()
    assert table.document()["cells"][0]["stopped_because"] == "surely above 10%"


def of_control(rate_at, trials=120):
    """A table with a control that dies at rate_at(place), beside a cell that never dies."""
    rng = random.Random(8)
    records = [record(cell, n) for n in range(trials) for cell in ("clean", "control")]
    verdicts = [
        verdict(r["cell"], r["n"], "died", "memory-limit-main")
        if r["cell"] == "control" and rng.random() < rate_at(r["n"] / trials)
        else verdict(r["cell"], r["n"], "survived")
        for r in records
    ]
    counts = tally.count(records, verdicts)
    return from_tally(counts, control="control", tolerance={"any": 0.05}, watched=True)


def test_a_control_cell_shows_drift_and_counts_against_no_tolerance():
    """It dies in half of its trials on purpose; when that changes with time, the machine did."""
    steady = of_control(lambda _: 0.5)
    assert steady.exit == 0
    assert steady.drift is not None
    assert not steady.drift.flagged
    assert "no drift shown" in steady.text()
    # Its length depended on the others alone; theirs on their own deaths.
    methods = {row.cell: row.rate.method for row in steady.rows}
    assert methods == {"control": "wilson", "clean": "confidence-sequence"}
    moved = of_control(lambda t: 0.3 if t < 0.5 else 0.8)
    assert moved.drift is not None
    assert moved.drift.flagged
    assert "the machine drifted: more deaths later, most at 5" in moved.text()
    assert moved.document()["control"] == "control"
    assert "too one-sided" in of_control(lambda _: 0.0).text()


def test_planned_cells_without_trials_have_a_row():
    """What was planned and never run is shown as nothing known."""
    table = build([], [], cells=[("x", {"delay": 0.0})])
    assert table.rows[0].trials == 0
    assert table.rows[0].rate.point is None


def test_quick_reading_gives_what_json_gives():
    """
    Lines as the store writes them are read by their heads, odd ones whole, torn ones not at
    all; the counts are those of the same lines read as JSON.
    """
    gap = {"saw": ["trace"], "blind": [{"source": "kmsg", "from": 1.0, "to": None, "why": "]},"}]}
    records = [record("a", n, warm_up=n == 0, block=n // 3) for n in range(9)]
    records += [
        record('we"ird\\', 3),
        record("b", 1, config={"x": {"y": {}, "seed": 1, "block": 2}}),
        record("a", 3),  # again: counts once
        record("lone \ud800", 1),
    ]
    verdicts = [
        verdict("a", 0, "died", "vm-oom", "vm-pressure"),
        verdict("a", 1, "survived"),
        verdict("a", 2, "died", "vm-oom", "vm-pressure", sender={"name": '"grade":{"saw":["x"]'}),
        verdict("a", 3, "died", "vm-oom", "vm-pressure", grade=gap),
        verdict("a", 4, "exec-failed", "exec-timeout", "process-exit", sentence="it's over"),
        verdict("a", 5, "unobserved"),
        verdict("a", 6, "invalid"),
        verdict("a", 7, "died", "docker-kill", "external", sentence="s"),
        verdict('we"ird\\', 3, "died", "docker-kill", "external", sentence="s"),
        verdict("b", 1, "survived"),
    ]

    def dump(lines):
        return [json.dumps(x, separators=(",", ":")).encode() + b"\n" for x in lines]

    reordered = [json.dumps(dict(reversed(x.items()))).encode() + b"\n" for x in records]
    expected = tally.count(records, verdicts)
    for lines in (dump(records), reordered):
        found = tally.count_lines(
            [*lines, lines[0][:40]], [*dump(verdicts), b'{"trial":"a/1","outc']
        )
        assert found == expected
    assert expected.evidence.blind == {("kmsg", "]},"): 1}
    assert expected.cells["a"].died == 3


def test_plain_progress_says_each_trial_and_the_sum():
    """Piped: a line per trial, then elapsed, trials, deaths with interval, causes, time left."""
    times = iter(range(100))
    out = io.StringIO()
    with Progress(lambda: float(next(times)), stream=out) as progress:
        progress.begin(4)
        for n, outcome in enumerate(["survived", "died"], start=1):
            progress.trial_started(f"a/{n}")
            progress.trial_done(
                record("a", n),
                verdict("a", n, outcome, "vm-oom" if n == 2 else None, "vm-pressure"),
            )
        assert "2/4 trials" in progress.line()
        assert "1 death 50% [" in progress.line()
        assert "vm 1" in progress.line()
        assert "left" in progress.line()
    assert "container.memory=128MiB delay=250ms: died: vm-oom" in out.getvalue()


def test_quiet_progress_says_errors_only():
    """With --json nothing is narrated but errors."""
    out = io.StringIO()
    with Progress(lambda: 0.0, stream=out, quiet=True) as progress:
        progress.begin(1)
        progress.trial_done(record("a", 1), verdict("a", 1, "survived"))
        progress.note("a machine starts")
        progress.note("the engine is gone", error=True)
    assert out.getvalue() == "the engine is gone\n"


def test_live_progress_restores_the_terminal():
    """On a terminal one line is redrawn; notes stand above it; end() may be called twice."""
    out = io.StringIO()
    progress = Progress(lambda: 0.0, stream=out, live=True)
    progress.begin(2)
    progress.trial_done(record("a", 1), verdict("a", 1, "died", "vm-oom", "vm-pressure"))
    progress.end()
    progress.end()
    assert "died: vm-oom" in out.getvalue()


def test_the_time_left_counts_down_between_two_trials():
    """It never climbs while a trial runs, and never falls below what the others need."""
    now = [0.0]
    with Progress(lambda: now[0], stream=io.StringIO()) as progress:
        progress.begin(4)
        now[0] = 10.0
        progress.trial_done(record("a", 1), verdict("a", 1, "survived"))
        shown = []
        for now[0] in (10.0, 15.0, 20.0, 60.0):
            shown.append(next(p for p in progress.line().split(" · ") if p.endswith("left")))
    assert shown == ["~30s left", "~25s left", "~20s left", "~20s left"]
