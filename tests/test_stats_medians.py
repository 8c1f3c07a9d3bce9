"""Medians and their intervals hold what they promise, whatever the distribution."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.stats.medians import median, median_interval, middle_interval, quantile

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


@pytest.mark.parametrize(("n", "alpha"), [(8, 0.05), (12, 0.05 / 3), (25, 0.05)])
def test_the_middle_of_a_symmetric_distribution_is_covered_in_less_width(n, alpha):
    """As often as promised; over many samples narrower than what assumes nothing."""
    dice = random.Random(5)
    covered, ours, signs = 0, 0.0, 0.0
    for _ in range(1500):
        values = [dice.gauss(0, 1) for _ in range(n)]
        low, middle, high = middle_interval(values, alpha)
        assert low <= middle <= high
        covered += low <= 0 <= high
        ours += high - low
        a, b = median_interval(values, alpha)
        signs += b - a
    assert covered / 1500 > 1 - alpha - 3 * (alpha * (1 - alpha) / 1500) ** 0.5
    assert ours < signs


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.floats(-100, 100))
def test_the_middle_moves_with_its_values(values, step):
    """And turns with their signs: the interval of the mirror image is the mirrored interval."""
    low, middle, high = middle_interval(values)
    moved = middle_interval([v + step for v in values])
    assert (low > float("-inf")) == (len(values) >= 6)
    assert moved == pytest.approx((low + step, middle + step, high + step), abs=1e-6)
    assert middle_interval([-v for v in values]) == pytest.approx((-high, -middle, -low), abs=1e-6)


def test_nothing_has_no_quantile():
    """An empty sample is an error, not a zero."""
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)
