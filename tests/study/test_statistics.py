import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from regrow.study import mean_interval, paired_difference

numbers = st.floats(-1e3, 1e3)


@given(
    values=st.lists(numbers, min_size=2, max_size=12).filter(lambda v: np.ptp(v) > 1e-3),
    confidence=st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_the_interval_is_scipys(values, confidence):
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    estimate = mean_interval(values, confidence=confidence)
    assert estimate.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert estimate.low == pytest.approx(expected.low, rel=1e-6, abs=1e-6)
    assert estimate.high == pytest.approx(expected.high, rel=1e-6, abs=1e-6)
    assert estimate.values == tuple(values)


def test_three_seeds_by_hand():
    # mean 2, standard deviation 1, t(0.975, 2) = 4.302653
    estimate = mean_interval([1.0, 2.0, 3.0])
    half = 4.30265273 / math.sqrt(3)
    assert (estimate.low, estimate.high) == pytest.approx((2 - half, 2 + half))
    assert not estimate.is_above_zero
    assert not estimate.is_below_zero
    assert mean_interval([9.0, 10.0, 11.0]).is_above_zero
    assert mean_interval([-9.0, -10.0, -11.0]).is_below_zero


def test_one_value_has_no_interval_and_decides_nothing():
    estimate = mean_interval([5.0])
    assert (estimate.mean, estimate.low, estimate.high) == (5.0, None, None)
    assert not estimate.is_above_zero
    assert not estimate.is_below_zero


@given(
    treated=st.dictionaries(st.integers(0, 6), numbers),
    control=st.dictionaries(st.integers(0, 6), numbers),
)
def test_only_seeds_of_both_arms_are_paired(treated, control):
    both = sorted(set(treated) & set(control))
    estimate = paired_difference(treated, control)
    if not both:
        assert estimate is None
    else:
        assert estimate.values == tuple(treated[s] - control[s] for s in both)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_values_must_be_finite_numbers(values):
    with pytest.raises(ValueError, match="at least one finite number"):
        mean_interval(values)
