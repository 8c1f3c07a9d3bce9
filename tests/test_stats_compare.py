"""Comparisons agree with libraries and brute force, and keep their error rates."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stats import compare
from harness.stats.compare import Stratum


@pytest.mark.parametrize(
    "counts", [(2, 20, 9, 20), (0, 15, 5, 12), (7, 40, 7, 38), (10, 60, 1, 50), (0, 9, 1, 9)]
)
def test_boschloo_is_scipy_s(counts):
    """The same p as the library, which wants the groups in columns."""
    from scipy.stats import boschloo_exact

    x, n, y, m = counts
    table = [[x, y], [n - x, m - y]]
    sides = [boschloo_exact(table, alternative=side, n=64).pvalue for side in ("less", "greater")]
    assert compare.boschloo(*counts) == pytest.approx(min(1.0, 2 * min(sides)), rel=2e-3)


def test_boschloo_keeps_its_level_and_beats_fisher():
    """Exactly computed: size at most 5 % for any common rate; power above Fisher's."""
    from scipy.stats import fisher_exact

    n = 14
    pairs = list(itertools.product(range(n + 1), repeat=2))
    rejected = [pair for pair in pairs if compare.boschloo(pair[0], n, pair[1], n) <= 0.05]
    by_fisher = [(x, y) for x, y in pairs if fisher_exact([[x, y], [n - x, n - y]]).pvalue <= 0.05]

    def chance(region, p, q):
        return sum(
            math.comb(n, x)
            * p**x
            * (1 - p) ** (n - x)
            * math.comb(n, y)
            * q**y
            * (1 - q) ** (n - y)
            for x, y in region
        )

    assert max(chance(rejected, p, p) for p in np.linspace(0.02, 0.98, 49)) <= 0.05
    assert chance(rejected, 0.1, 0.6) > chance(by_fisher, 0.1, 0.6)


@pytest.mark.parametrize(
    "counts", [(200, 2000, 260, 2000), (3, 5000, 14, 5000), (4990, 5000, 4999, 5000)]
)
def test_large_tables_are_tested_quickly_and_alike(counts):
    """Thousands of trials a cell: within a fifth of Fisher's p, without the exact search."""
    from scipy.stats import fisher_exact

    x, n, y, m = counts
    exact = fisher_exact([[x, y], [n - x, m - y]]).pvalue
    assert compare.boschloo(*counts) == pytest.approx(exact, rel=0.2)


def test_newcombe_is_statsmodels_():
    """The closed form is the library's."""
    from statsmodels.stats.proportion import confint_proportions_2indep

    for x, n, y, m in ((2, 20, 9, 20), (0, 15, 5, 12), (7, 40, 7, 38), (0, 30, 0, 30)):
        low, high = confint_proportions_2indep(y, m, x, n, method="newcomb")
        assert compare.newcombe(x, n, y, m)[1:] == pytest.approx((low, high), abs=1e-9)


@given(
    st.integers(2, 60), st.integers(2, 60), st.floats(0, 1), st.floats(0, 1), st.floats(-0.9, 0.9)
)
@settings(max_examples=60)
def test_the_restricted_rate_is_the_most_likely_one(n, m, p, q, difference):
    """Miettinen-Nurminen's root maximises the likelihood: no rate on a fine grid is better."""
    x, y = round(p * n), round(q * m)

    def log_likelihood(rate):
        other = rate + difference
        return sum(
            k * math.log(max(r, 1e-300)) + (t - k) * math.log(max(1 - r, 1e-300))
            for k, t, r in ((x, n, rate), (y, m, other))
        )

    found = compare.restricted_rate(x, n, y, m, difference)
    low, high = max(0.0, -difference), min(1.0, 1 - difference)
    assert low - 1e-12 <= found <= high + 1e-12
    grid = np.linspace(low + 1e-9, high - 1e-9, 400)
    best = max(log_likelihood(r) for r in grid)
    inside = min(max(found, low + 1e-9), high - 1e-9)
    assert log_likelihood(inside) >= best - 1e-6 * (1 + abs(best))


def test_no_regression_needs_the_trials_it_is_known_to_need():
    """Per arm, 80 % power, nothing changed."""
    assert compare.trials_for_no_regression(0.0, 0.05) == 52
    assert compare.trials_for_no_regression(0.0, 0.10) == 25
    assert compare.trials_for_no_regression(0.02, 0.10) == pytest.approx(43, abs=1)


def test_mantel_haenszel_is_statsmodels_():
    """CMH without continuity correction, pooled risk ratio; empty strata change nothing."""
    from statsmodels.stats.contingency_tables import StratifiedTable

    strata = [Stratum(3, 20, 8, 22), Stratum(1, 15, 6, 15), Stratum(0, 10, 2, 12)]
    tables = [
        np.array([[s.b_died, s.b - s.b_died], [s.a_died, s.a - s.a_died]], dtype=float)
        for s in strata
    ]
    theirs = StratifiedTable(tables)
    found = compare.mantel_haenszel([*strata, Stratum(0, 0, 3, 9), Stratum(0, 9, 0, 9)])
    assert found.p == pytest.approx(theirs.test_null_odds(correction=False).pvalue, rel=1e-9)
    alone = compare.mantel_haenszel(strata)
    assert alone.risk_ratio == pytest.approx(theirs.riskratio_pooled, rel=1e-9)
    assert found.low < found.difference < found.high


@pytest.mark.parametrize(
    ("n", "rates", "rise"),
    [(20, (0.4,), 0.3), (12, (0.35, 0.45, 0.6), 0.3), (1, (0.3, 0.6) * 20, 0.2), (12, (0.0,), 0.5)],
    ids=["one-cell", "few-cells", "blocks-of-two", "nobody-dies-before"],
)
def test_the_pooled_difference_covers_and_is_no_wider_than_it_must(n, rates, rise):
    """
    95 % cover about 95 %, and the width is that of the difference's own spread: an interval
    twice as wide covers too and says nothing.
    """
    random = np.random.default_rng(5)
    runs, hit, widths, points = 800, 0, [], []
    for _ in range(runs):
        strata = [
            Stratum(int(random.binomial(n, p)), n, int(random.binomial(n, p + rise)), n)
            for p in rates
        ]
        found = compare.mantel_haenszel(strata)
        hit += found.low <= rise <= found.high
        widths.append(found.high - found.low)
        points.append(found.difference)
    assert hit / runs >= 0.91
    assert np.mean(widths) <= 1.12 * 2 * 1.96 * np.std(points)


def test_a_difference_of_all_is_not_exact():
    """0 of 12 and 12 of 12 leave room for less than a hundred points."""
    found = compare.mantel_haenszel([Stratum(0, 12, 12, 12)] * 2)
    assert found.difference == 1
    assert found.low < 0.9
    assert found.high == 1


def test_no_deaths_anywhere_is_bounded_and_has_no_p():
    """0/30 against 0/30 in two cells: nothing to test, a bound all the same."""
    found = compare.mantel_haenszel([Stratum(0, 30, 0, 30)] * 2)
    assert found.p is None
    assert found.difference == 0
    assert 0 < found.high < 0.07


def test_benjamini_hochberg_is_scipy_s():
    """The same q values as the library."""
    from scipy.stats import false_discovery_control

    p = [0.001, 0.2, 0.03, 0.04, 0.9, 0.011]
    assert compare.benjamini_hochberg(p) == pytest.approx(list(false_discovery_control(p)))


def test_blocks_keep_a_drifting_machine_from_faking_a_change():
    """
    The machine's rate steps from 5 to 20 % half-way and nothing else changes: interleaved in
    blocks of two and stratified, a change is found in about 5 % of runs; before-then-after
    finds one in most.
    """
    rng = random.Random(4)
    runs, blocked, naive = 300, 0, 0
    for _ in range(runs):
        rates = [0.05 if t < 60 else 0.20 for t in range(120)]
        x = [rng.random() < p for p in rates]
        strata = []
        for block in range(10):
            a = [x[t] for t in range(block * 12, block * 12 + 12, 2)]
            b = [x[t] for t in range(block * 12 + 1, block * 12 + 12, 2)]
            strata.append(Stratum(sum(a), 6, sum(b), 6))
        found = compare.mantel_haenszel(strata).p
        blocked += found is not None and found < 0.05
        naive += compare.boschloo(sum(x[:60]), 60, sum(x[60:]), 60) < 0.05
    assert blocked / runs <= 0.09
    assert naive / runs > 0.4
