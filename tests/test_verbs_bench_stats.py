"""The yardstick runs the product's own code and judges every row against its aim."""

from __future__ import annotations

import json

import pytest

from harness.errors import BadInput
from harness.stats import twosample, yardstick
from harness.verbs import bench
from harness.verbs.bench import ratio


def test_exact_rows_meet_their_aims(capsys):
    """One cell at 1 % or 10 % is computed, not simulated: all aims met."""
    assert bench.main(what="stats", only="c", quick=True, json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "deathbench.bench/1"
    assert len(document["ratios"]) == 6
    assert all(r["met"] for r in document["ratios"])


def test_with_few_repetitions_an_aim_is_missed_only_beyond_chance():
    """1.26 ± 0.05 has not missed 1.25 after 200 repetitions; after a thousand it has."""
    row = {"name": "x", "ours": 1.0, "other": None, "competitor": "", "unit": "trials"}
    few = ratio.Ratio(**row, ratio=1.26, low=1.21, high=1.31, n=200, aim=("<=", 1.25), by="low")
    many = ratio.Ratio(**row, ratio=1.26, low=1.24, high=1.28, n=1000, aim=("<=", 1.25))
    assert few.met
    assert not many.met


@pytest.mark.parametrize("flags", [{"what": "observe"}, {"what": "stats", "quick": True}])
def test_a_full_run_is_of_stats_and_not_quick(flags):
    """One clear error, before anything runs."""
    with pytest.raises(BadInput) as caught:
        bench.main(full=True, **flags)
    assert "--full" in caught.value.problems[0].what


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
    """At 20 trials a cell, fewer wrong cells than with an even split."""
    found = yardstick.allocation(20, repetitions=20, seed=3)
    assert found["ours_far"] <= found["uniform_far"]


def test_four_looks_need_fewer_trials_than_one_test():
    """0.5 against 0.1: the size is kept for every common rate, the power reached, a fifth saved."""
    design = twosample.design(6)
    power, per_arm = design.outlook(0.1, 0.5)
    assert design.alpha <= 0.05
    assert power >= 0.8
    assert per_arm <= 0.82 * twosample.fisher_number(0.5, 0.1)
    assert design.decide(0, 5, 6) == "b dies more"
    assert design.decide(0, 0, 6) is None
    assert design.decide(0, 1, 24) == "no difference shown"
    assert design.decide(3, 3, 7) is None
