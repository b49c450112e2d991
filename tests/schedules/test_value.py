"""Schedules against their formulas, at both ends and just outside."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.schedules import constant, cosine, cubic, linear, piecewise

values = st.floats(0, 1)
spans = st.tuples(st.integers(0, 500), st.integers(1, 500)).map(lambda s: (s[0], s[0] + s[1]))

FORMULAS = {
    linear: lambda first, last, t: first + (last - first) * t,
    cosine: lambda first, last, t: last + (first - last) * 0.5 * (1 + math.cos(math.pi * t)),
    cubic: lambda first, last, t: last + (first - last) * (1 - t) ** 3,
}


@pytest.mark.parametrize("schedule", FORMULAS)
@given(values, values, spans)
def test_formula_between_the_ends_and_constant_outside(schedule, first, last, span):
    start, end = span
    value = schedule(first, last, start=start, end=end)
    formula = FORMULAS[schedule]
    for step in range(start, end + 1, max((end - start) // 20, 1)):
        expected = formula(first, last, (step - start) / (end - start))
        assert value(step) == pytest.approx(expected, abs=1e-12)
    for step in (0, start - 1, start):
        assert value(step) == pytest.approx(first, abs=1e-12)
    for step in (end, end + 1, 10 * end):
        assert value(step) == pytest.approx(last, abs=1e-12)


@given(values, values, spans)
def test_a_pruning_target_is_met_to_the_last_bit(first, last, span):
    value = cubic(first, last, start=span[0], end=span[1])
    assert value(span[1]) == last
    assert value(span[1] + 1) == last


@pytest.mark.parametrize("schedule", FORMULAS)
@given(values, values, spans)
def test_monotone_and_within_the_ends(schedule, first, last, span):
    start, end = span
    value = schedule(first, last, start=start, end=end)
    sampled = [value(step) for step in range(start - 1, end + 2)]
    steps = [later - earlier for earlier, later in itertools.pairwise(sampled)]
    assert all(step * (last - first) >= -1e-15 for step in steps)
    assert min(first, last) - 1e-12 <= min(sampled)
    assert max(sampled) <= max(first, last) + 1e-12


def test_the_start_is_step_zero_unless_said():
    for schedule in FORMULAS:
        assert schedule(0.3, 0.1, end=10)(0) == pytest.approx(0.3)
        assert schedule(0.3, 0.1, end=10)(5) == schedule(0.3, 0.1, start=0, end=10)(5)


def test_rigl_cosine_at_thirds():
    """alpha / 2 (1 + cos(pi t / T)) by hand: 3/4 and 1/4 of alpha."""
    drop_fraction = cosine(0.3, end=75_000)
    assert drop_fraction(25_000) == pytest.approx(0.225)
    assert drop_fraction(50_000) == pytest.approx(0.075)
    assert drop_fraction(75_000) == pytest.approx(0, abs=1e-15)


def test_mean_density_of_gradual_pruning():
    """Known: .4765 at S = .8 and .4111 at S = .9, steps 20k to 75k of 97,656."""
    for sparsity, density in ((0.8, 0.4765), (0.9, 0.4111)):
        target = cubic(0.0, sparsity, start=20_000, end=75_000)
        mean = sum(1 - target(step) for step in range(97_656)) / 97_656
        assert mean == pytest.approx(density, abs=1e-4)


def test_constant():
    value = constant(0.3)
    assert [value(step) for step in (0, 1, 10**9)] == [0.3] * 3


@given(
    st.lists(st.integers(1, 100), unique=True).map(sorted), st.lists(values, min_size=8), st.data()
)
def test_piecewise_against_a_loop(starts, levels, data):
    pieces = list(zip([0, *starts], levels, strict=False))
    value = piecewise(*pieces)
    for step in {0, 101, *starts, *(start - 1 for start in starts)}:
        expected = pieces[0][1]
        for start, level in pieces:
            if start <= step:
                expected = level
        assert value(step) == expected
    assert value(-1) == pieces[0][1]


@pytest.mark.parametrize(
    "pieces", [(), ((1, 0.1),), ((0, 0.1), (0, 0.2)), ((0, 1), (9, 1), (5, 1))]
)
def test_pieces_out_of_order(pieces):
    with pytest.raises(ValueError, match="start at step 0 and ascend"):
        piecewise(*pieces)


@pytest.mark.parametrize("schedule", FORMULAS)
def test_spans_without_a_length(schedule):
    for span in ({"end": 0}, {"start": 5, "end": 5}, {"start": 5, "end": 4}):
        with pytest.raises(ValueError, match="end must lie behind start"):
            schedule(0.1, 0.2, **span)
    with pytest.raises(ValueError, match="start must be at least 0"):
        schedule(0.1, 0.2, start=-1, end=5)
    with pytest.raises(TypeError, match="start must be an integer"):
        schedule(0.1, 0.2, start=0.5, end=5)
