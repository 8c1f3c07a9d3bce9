"""Medians and their intervals hold what they promise, whatever the distribution."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats.medians import median, median_interval, quantile

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@given(VALUES)
def test_the_interval_holds_the_sample_median(values):
    """Its ends are values of the sample, around the middle."""
    low, high = median_interval(values)
    assert low in values
    assert high in values
    assert low <= median(values) <= high


@given(VALUES, st.floats(0.01, 1))
def test_a_quantile_has_its_share_at_or_below_it(values, q):
    """And no smaller value of the sample has."""
    found = quantile(values, q)
    assert sum(v <= found for v in values) >= q * len(values) - 1e-9
    assert sum(v < found for v in values) < q * len(values)


@pytest.mark.parametrize("n", [10, 25])
def test_the_interval_covers_a_long_tailed_median(n):
    """2,000 samples of a log-normal: at least 95 % of intervals hold the true median, 1."""
    dice = random.Random(4)
    covered = 0
    for _ in range(2000):
        low, high = median_interval([dice.lognormvariate(0, 2) for _ in range(n)])
        covered += low <= 1 <= high
    # Three standard deviations of the binomial below the promise.
    assert covered / 2000 > 0.95 - 3 * (0.95 * 0.05 / 2000) ** 0.5


def test_nothing_has_no_quantile():
    """An empty sample is an error, not a zero."""
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)
