"""Do 95 % intervals hold in 95 % of cases? Exactly computed where that is possible."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats import intervals


def binomial(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_every_interval_contains_its_point_and_stays_in_the_unit(pair):
    """Whatever the counts, 0 <= low <= k/n <= high <= 1, and the sequence is the widest."""
    k, n = pair
    low, high, _ = intervals.once(k, n)
    assert 0 <= low <= k / n <= high <= 1
    wide = intervals.sequence(k, n)
    assert wide[0] <= intervals.wilson(k, n)[0] + 1e-12
    assert wide[1] >= intervals.wilson(k, n)[1] - 1e-12


@given(counts)
def test_deaths_and_survivals_mirror_each_other(pair):
    """The interval of k deaths is the mirror of the interval of n - k deaths."""
    k, n = pair
    low, high, _ = intervals.once(k, n)
    mirrored = intervals.once(n - k, n)
    assert low == pytest.approx(1 - mirrored[1], abs=1e-9)
    assert high == pytest.approx(1 - mirrored[0], abs=1e-9)


def test_wilson_agrees_with_scipy():
    """The closed form is the library's."""
    from scipy.stats import binomtest

    for k, n in ((1, 10), (3, 59), (17, 40), (299, 300)):
        theirs = binomtest(k, n).proportion_ci(0.95, "wilson")
        assert intervals.wilson(k, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize("n", [20, 50, 100])
def test_coverage_is_ninety_five_percent_on_average(n):
    """Averaged over rates, the interval of a table cell covers 94-97 %; Wald's does not."""
    rates = [i / 200 for i in range(1, 200)]
    table = [intervals.once(k, n)[:2] for k in range(n + 1)]
    coverage = [
        sum(binomial(k, n, p) for k, (low, high) in enumerate(table) if low <= p <= high)
        for p in rates
    ]
    assert 0.94 <= sum(coverage) / len(coverage) <= 0.97
    assert min(coverage) > 0.80


@pytest.mark.parametrize("p", [0.05, 0.3])
def test_a_confidence_sequence_is_hardly_ever_wrong_at_any_time(p):
    """
    Looked at after each of 200 trials, the sequence misses the true rate in at most 5 % of
    runs, where Wilson's interval misses it in a quarter or more.
    """
    rng = random.Random(20260723)
    runs, missed, missed_wilson = 400, 0, 0
    for _ in range(runs):
        k = 0
        out = out_wilson = False
        for n in range(1, 201):
            k += rng.random() < p
            if n < 5:
                continue
            low, high = intervals.sequence(k, n)
            out = out or not low <= p <= high
            low, high = intervals.wilson(k, n)
            out_wilson = out_wilson or not low <= p <= high
        missed += out
        missed_wilson += out_wilson
    assert missed / runs <= 0.05
    assert missed_wilson / runs > 0.2


def test_zero_deaths_are_bounded_exactly():
    """With the bound as the true rate, no death in n trials has a chance of exactly 5 %."""
    for n in (1, 10, 59, 300):
        assert (1 - intervals.zero_bound(n)) ** n == pytest.approx(0.05)


def test_unobserved_trials_widen_both_ends_and_not_the_point():
    """Nobody died of them at the lower end, all of them at the upper end."""
    plain = intervals.rate(5, 50)
    blind = intervals.rate(5, 50, unobserved=5)
    assert blind.point == plain.point == 0.1
    assert blind.low < plain.low
    assert blind.high > plain.high
    assert blind.method == "wilson+unobserved"
    assert blind.low == intervals.wilson(5, 55)[0]
    assert blind.high == intervals.wilson(10, 55)[1]


def test_nothing_observed_is_nothing_known():
    """No trial: no point, the whole unit, and no method that pretends otherwise."""
    assert intervals.rate(0, 0) == intervals.Interval(None, 0.0, 1.0, "none")


def test_goodman_is_the_library_s():
    """Simultaneous intervals per hypothesis are Goodman's."""
    from statsmodels.stats.proportion import multinomial_proportions_confint

    found = intervals.simultaneous({"a": 7, "b": 2, "c": 0}, 40)
    # Goodman divides alpha by the number of categories; "everything else" is one of ours only
    # when it is asked about.
    theirs = multinomial_proportions_confint([7, 2, 0, 31], 0.05 * 4 / 3, method="goodman")
    for mine, (low, high) in zip(found.values(), theirs, strict=False):
        assert (mine.low, mine.high) == pytest.approx((low, high), abs=1e-9)


def test_simultaneous_sequences_hold_at_all_times_for_all_hypotheses():
    """No hypothesis' rate leaves its sequence at any time in more than 5 % of runs."""
    rng = random.Random(7)
    truth = {"a": 0.2, "b": 0.05}
    runs, missed = 60, 0
    for _ in range(runs):
        count = {"a": 0, "b": 0}
        out = False
        for n in range(1, 101):
            u = rng.random()
            if u < 0.25:
                count["a" if u < 0.2 else "b"] += 1
            if n % 5 == 0:
                found = intervals.simultaneous(count, n, watched=True)
                out = out or any(not found[h].low <= p <= found[h].high for h, p in truth.items())
        missed += out
    # 5 % of 60 is 3; 8 or more would happen once in a hundred.
    assert missed <= 7


@pytest.mark.parametrize("watched", [False, True])
def test_hypotheses_that_nobody_died_of_count_too(watched):
    """The correction is for all that a death could have had, not for those that were seen."""
    seen = intervals.simultaneous({"a": 5}, 40, of=7, watched=watched)["a"]
    listed = dict.fromkeys("bcdefg", 0)
    all_of_them = intervals.simultaneous({"a": 5, **listed}, 40, watched=watched)["a"]
    assert (seen.low, seen.high) == pytest.approx((all_of_them.low, all_of_them.high))
    alone = intervals.simultaneous({"a": 5}, 40, watched=watched)["a"]
    assert seen.low < alone.low
    assert seen.high > alone.high


def test_undecided_deaths_widen_the_upper_end_of_every_hypothesis():
    """A death without a verdict may be anybody's: no lower end moves, every upper end does."""
    plain = intervals.simultaneous({"a": 5, "b": 0}, 40)
    open_ = intervals.simultaneous({"a": 5, "b": 0}, 40, unknown=3)
    for name in plain:
        assert open_[name].low == plain[name].low
        assert open_[name].high > plain[name].high
        assert open_[name].method == "goodman+unknown"


@pytest.mark.parametrize("watched", [False, True])
def test_blind_trials_widen_both_ends_of_every_hypothesis(watched):
    """Of a blind trial it may have died, or not: both ends allow for it, the point does not."""
    plain = intervals.simultaneous({"a": 5, "b": 0}, 40, watched=watched)
    blind = intervals.simultaneous({"a": 5, "b": 0}, 40, unobserved=4, watched=watched)
    assert blind["a"].point == plain["a"].point
    assert blind["a"].low < plain["a"].low
    assert blind["b"].low == 0
    assert all(blind[name].high > plain[name].high for name in plain)
    assert blind["a"].method.endswith("+unobserved")
