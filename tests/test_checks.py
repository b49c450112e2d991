"""Argument checks: what passes comes back as a plain number, what fails is named."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow._checks import check_choice, check_count, check_fraction


@given(st.floats(0, 1, exclude_max=True))
def test_fractions_pass_unchanged(value):
    assert check_fraction(value, "sparsity") == value


@pytest.mark.parametrize("value", [0, np.float32(0.5), np.float64(0.5), Fraction(1, 2)])
def test_any_real_number_becomes_a_float(value):
    number = check_fraction(value, "sparsity")
    assert type(number) is float
    assert number == value


def test_one_passes_only_where_the_interval_is_closed():
    assert check_fraction(1, "fraction", closed=True) == 1.0
    with pytest.raises(ValueError, match=r"fraction must lie in \[0, 1\), got 1"):
        check_fraction(1, "fraction")


@given(st.floats().filter(lambda x: not 0 <= x <= 1))
def test_numbers_outside_are_named(value):
    for closed in (False, True):
        with pytest.raises(ValueError, match=r"sparsity must lie in \[0, 1"):
            check_fraction(value, "sparsity", closed=closed)


def test_percentages_are_recognised():
    with pytest.raises(ValueError, match=r"90 per cent is sparsity=0\.9"):
        check_fraction(90, "sparsity")
    for value in (-0.1, 200, math.inf, math.nan):
        with pytest.raises(ValueError, match="got") as caught:
            check_fraction(value, "sparsity")
        assert "per cent" not in str(caught.value)


@pytest.mark.parametrize("value", ["0.5", None, True, False, [0.5], 1j])
def test_fractions_must_be_numbers(value):
    with pytest.raises(TypeError, match="sparsity must be a number") as caught:
        check_fraction(value, "sparsity")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [1, 7, 10**20, np.int64(3)])
def test_counts_pass_as_ints(value):
    number = check_count(value, "n_steps")
    assert type(number) is int
    assert number == value


def test_counts_have_a_least_value():
    assert check_count(0, "start", least=0) == 0
    assert check_count(-2, "offset", least=-2) == -2
    with pytest.raises(ValueError, match="n_steps must be at least 1, got 0"):
        check_count(0, "n_steps")
    with pytest.raises(ValueError, match="start must be at least 3, got 2"):
        check_count(2, "start", least=3)


@pytest.mark.parametrize("value", [1.0, "1", None, True, np.float64(1)])
def test_counts_must_be_integers(value):
    with pytest.raises(TypeError, match="interval must be an integer of at least 1"):
        check_count(value, "interval")


def test_choices():
    known = {"random": 0, "gradient": 1}
    assert check_choice("random", "growth", known) == "random"
    for value in ("Random", "", None, 0, ["random"]):
        with pytest.raises(
            ValueError, match="growth must be one of random, gradient; got"
        ) as error:
            check_choice(value, "growth", known)
        assert repr(value) in str(error.value)


def test_choices_of_a_string_are_not_its_letters():
    with pytest.raises(ValueError, match="one of"):
        check_choice("ra", "growth", ("random",))
