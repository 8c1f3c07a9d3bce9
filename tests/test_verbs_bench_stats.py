"""The yardstick runs the product's own code and judges every row against its aim."""

from __future__ import annotations

import json

import pytest

from harness.stats import yardstick
from harness.verbs import bench


def test_exact_rows_meet_their_aims(capsys):
    """One cell (c) and before against after (d) are computed, not simulated: all aims met."""
    assert bench.main(what="stats", only="c,d", quick=True, json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "deathbench.bench/1"
    assert len(document["ratios"]) == 16
    assert all(r["met"] for r in document["ratios"])


def test_a_measured_search_carries_its_error_and_its_bound():
    """Mean, standard error, share of right answers, the bound: with a seed, the same twice."""
    found = yardstick.step(16, 0.02, 0.6, repetitions=12, seed=1, rates=yardstick.known(0.02, 0.6))
    assert found.bound == pytest.approx(10.3, abs=0.1)
    assert found == yardstick.step(
        16, 0.02, 0.6, repetitions=12, seed=1, rates=yardstick.known(0.02, 0.6)
    )
    assert 0.8 < found.ratio < 2.5
    assert found.error > 0


def test_drift_fools_before_and_after_but_not_blocks_of_two():
    """A jump of the machine: before-then-after alarms in most runs, ours in few."""
    found = yardstick.false_alarms("step 5 to 20 %", repetitions=60, seed=2)
    assert found["before_after"] > 0.5
    assert found["ours"] <= 0.13


def test_a_budget_spent_where_undecided_is_worth_more():
    """At 10 trials a cell, fewer wrong cells than with an even split."""
    found = yardstick.allocation(10, repetitions=8, seed=3)
    assert found["ours_far"] <= found["uniform_far"]
