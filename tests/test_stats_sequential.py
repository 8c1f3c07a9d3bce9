"""Rules of stopping keep the errors they declare, and cost what they should."""

from __future__ import annotations

import random

import pytest

from harness.stats import sequential


@pytest.mark.parametrize(("below", "above"), [(0.01, 0.05), (0.01, 0.1), (0.05, 0.3), (0.2, 0.4)])
def test_both_errors_are_at_most_alpha_exactly(below, above):
    """Computed, not simulated: neither wrong answer is given more often than declared."""
    fixed = sequential.fixed_number(below, above)
    rule = sequential.sprt(below, above, alpha=0.05, cap=2 * fixed)
    assert rule.outlook(below).above <= 0.05
    assert rule.outlook(above).below <= 0.05
    mean = (rule.outlook(below).trials + rule.outlook(above).trials) / 2
    assert mean <= 0.56 * fixed, "half a fixed number of trials is what the test is for"


def test_one_against_ten_percent_costs_what_the_tuned_bounds_promise():
    """Expected trials at 0, 1, 10 and 30 %."""
    rule = sequential.rule(10_000, below=0.01, above=0.10)
    assert isinstance(rule, sequential.Sprt)
    for rate, most in ((0.0, 31), (0.01, 38.1), (0.1, 20.7), (0.3, 5.7), (0.8, 1.5)):
        assert rule.outlook(rate).trials <= most + 1e-9


def test_simulation_agrees_with_the_exact_outlook():
    """decide(), asked trial by trial, does what the dynamic programme says."""
    rule = sequential.sprt(0.05, 0.30, alpha=0.05, cap=48)
    rng = random.Random(5)
    runs, trials, above = 4000, 0, 0
    for _ in range(runs):
        died = n = 0
        while (why := rule.decide(died, n)) is None or n == 0:
            n += 1
            died += rng.random() < 0.3
        trials += n
        above += why.startswith("above")
    expected = rule.outlook(0.3)
    assert trials / runs == pytest.approx(expected.trials, rel=0.05)
    assert above / runs == pytest.approx(expected.above, abs=0.015)


def test_a_short_cap_is_undecided_rather_than_wrong():
    """With six trials a cell, nothing about 1 % against 10 % can be claimed without deaths."""
    rule = sequential.rule(6, below=0.01, above=0.10)
    assert rule.decide(0, 6) == "undecided at 6 trials"
    assert isinstance(rule, sequential.Sprt)
    assert rule.outlook(0.1).below <= 0.05


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_an_e_process_may_be_asked_for_ever(rate):
    """At the level itself, either answer is given in at most 5 % of runs each."""
    rule = sequential.EProcess(rate, 0.05, 10**9)
    rng = random.Random(11)
    runs, wrong = 150, {"above": 0, "below": 0}
    for _ in range(runs):
        died = 0
        for n in range(1, 201):
            died += rng.random() < rate
            why = rule.decide(died, n)
            if why:
                wrong[why.split()[0]] += 1
                break
    # 5 % of 150 is 7.5; 15 would happen once in a hundred.
    assert max(wrong.values()) <= 14


def test_extreme_rates_are_taken():
    """0 % against anything: the first death decides; against 100 %: the first survival."""
    assert sequential.rule(50, below=0.0, above=0.05).decide(1, 3) == "above 0%"
    assert sequential.rule(50, below=0.5, above=1.0).decide(0, 1) == "below 100%"


def test_the_plan_names_what_can_be_found_out():
    """--plan: the rate that would show itself, the number needed, and the expected cost."""
    plan = sequential.plan(80, below=0.01, above=0.10)
    assert plan["fixed"] == 61
    assert plan["seen_once"] == pytest.approx(0.0368, abs=1e-3)
    assert plan["expected"]["0"] == 31
    assert sequential.plan(3)["detectable"] is None
    assert plan["needed"]["0.5"] == 12


def test_simulation_agrees_with_the_exact_outlook_of_an_e_process():
    """One rate given: chances of both answers and the expected trials, at a rate near it."""
    rule = sequential.EProcess(0.1, 0.05, 60)
    rng = random.Random(6)
    runs, trials, above = 1500, 0, 0
    for _ in range(runs):
        died = n = 0
        why = None
        while why is None:
            n += 1
            died += rng.random() < 0.3
            why = rule.decide(died, n)
        trials += n
        above += why.startswith("above")
    expected = rule.outlook(0.3)
    assert trials / runs == pytest.approx(expected.trials, rel=0.05)
    # Three standard errors.
    assert above / runs == pytest.approx(expected.above, abs=0.03)
    at_level = rule.outlook(0.1)
    assert at_level.above <= 0.05
    assert at_level.below <= 0.05


def test_a_plan_with_one_rate_says_what_its_e_process_costs():
    """`stop: {above: 5%}`: far from the rate it ends, at the rate most cells stay undecided."""
    plan = sequential.plan(80, above=0.05)
    assert plan["expected"]["0"] == 74
    assert plan["expected"]["0.2"] < 40
    assert plan["errors"]["undecided_between"] > 0.9
    assert plan["fixed"] is None
