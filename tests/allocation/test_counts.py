"""Whole numbers of units: the total is exact, and no layer strays from its fraction."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import models, pair_shapes, sparsities
from structure_cases import PairsInRows

from regrow.allocation import (
    allocate,
    allocate_counts,
    erdos_renyi,
    erdos_renyi_kernel,
    explicit,
    n_active,
    uniform,
)
from regrow.errors import InfeasibleSparsityError, SparsityError
from regrow.topology import Topology

ON_BUDGET = {"uniform": uniform(), "er": erdos_renyi(), "erk": erdos_renyi_kernel()}


def n_weights(shapes):
    return {name: math.prod(shape) for name, shape in shapes.items()}


def ideal_counts(shapes, sparsity, rule):
    """Real numbers of weights that meet the budget exactly: min(1, eps * ratio) by bisection."""
    n = n_weights(shapes)
    if rule == "uniform":
        return {name: (1 - sparsity) * n[name] for name in shapes}
    dims = {name: shape if rule == "erk" else shape[:2] for name, shape in shapes.items()}
    ratio = {name: sum(d) / math.prod(d) for name, d in dims.items()}

    def at(eps):
        return {name: min(1.0, eps * ratio[name]) * n[name] for name in shapes}

    low, high = 0.0, 1 / min(ratio.values())
    for _ in range(100):
        middle = (low + high) / 2
        if sum(at(middle).values()) < (1 - sparsity) * sum(n.values()):
            low = middle
        else:
            high = middle
    return at(high)


def attempt(shapes, sparsity, rule):
    """Counts, or the error that says that there are none."""
    try:
        return allocate_counts(shapes, sparsity, rule)
    except InfeasibleSparsityError as error:
        return error


def counts_or_none(shapes, sparsity, rule):
    found = attempt(shapes, sparsity, rule)
    return found if isinstance(found, dict) else None


@pytest.mark.parametrize("name", ON_BUDGET)
@given(models, sparsities)
def test_the_total_is_the_whole_number_nearest_to_the_budget(name, shapes, sparsity):
    counts = counts_or_none(shapes, sparsity, ON_BUDGET[name])
    if counts is not None:
        budget = (1 - sparsity) * sum(n_weights(shapes).values())
        assert abs(sum(counts.values()) - budget) <= 0.5 + 1e-9


@pytest.mark.parametrize("name", ON_BUDGET)
@given(models, sparsities)
def test_each_layer_is_within_one_unit_of_its_share(name, shapes, sparsity):
    counts = counts_or_none(shapes, sparsity, ON_BUDGET[name])
    if counts is None:
        return
    assert list(counts) == list(shapes)
    ideal = ideal_counts(shapes, sparsity, name)
    for layer, size in n_weights(shapes).items():
        assert type(counts[layer]) is int
        assert 1 <= counts[layer] <= size
        assert abs(counts[layer] - ideal[layer]) <= 1 + 1e-6


@given(models, sparsities)
def test_rules_with_fractions_of_their_own_keep_them(shapes, sparsity):
    """A dense first layer is not made up for, however small it is."""
    rule = uniform(first_layer_dense=True)
    counts = counts_or_none(shapes, sparsity, rule)
    if counts is None:
        return
    n = n_weights(shapes)
    wanted = {name: (1 - sparsity) * n[name] for name in shapes} | {"layer0": n["layer0"]}
    assert counts["layer0"] == n["layer0"]
    assert abs(sum(counts.values()) - sum(wanted.values())) <= 0.5 + 1e-9
    for name in shapes:
        assert abs(counts[name] - wanted[name]) <= 1 + 1e-6


@given(models, st.data())
def test_explicit_fractions_are_kept(shapes, data):
    n = n_weights(shapes)
    chosen = {name: data.draw(st.integers(1, n[name])) for name in shapes}
    rule = explicit({name: 1 - chosen[name] / n[name] for name in shapes})
    assert allocate_counts(shapes, None, rule) == chosen


@given(models, st.data())
def test_explicit_topologies_are_counted(shapes, data):
    topologies = {}
    for name, size in n_weights(shapes).items():
        active = torch.zeros(size, dtype=torch.bool)
        active[: data.draw(st.integers(1, size))] = True
        topologies[name] = Topology.from_active(active, shapes[name])
    expected = {name: topology.nnz for name, topology in topologies.items()}
    assert allocate_counts(shapes, None, explicit(topologies)) == expected
    total = sum(n_weights(shapes).values())
    sparsity = 1 - sum(expected.values()) / total
    if sparsity < 1:
        assert allocate_counts(shapes, sparsity, explicit(topologies)) == expected


def test_remainders_by_hand():
    """Of 5 + 5 + 5 weights at one half, 7.5 stay: 8, one more each for the first two."""
    shapes = {"a": (5, 1), "b": (1, 5), "c": (5,)}
    assert allocate_counts(shapes, 0.5, uniform()) == {"a": 3, "b": 3, "c": 2}
    # 2.4, 2.8 and 3.6 of 4, 7 and 9 ... the largest remainder is the middle one.
    shapes = {"a": (6,), "b": (7,), "c": (9,)}
    assert allocate_counts(shapes, 0.6, uniform()) == {"a": 2, "b": 3, "c": 4}


@given(pair_shapes, st.sampled_from([0.0, 0.25, 0.5, 0.75]))
def test_units_are_counted_in_units(shape, sparsity):
    shapes = {"a": shape, "full": (4, 4)}
    try:
        counts = allocate_counts(shapes, sparsity, uniform(), structure=PairsInRows())
    except InfeasibleSparsityError:
        return
    n_units = math.prod(shape) // 2
    assert abs(sum(counts.values()) - (1 - sparsity) * (n_units + 8)) <= 0.5
    assert abs(counts["a"] - (1 - sparsity) * n_units) <= 1


@pytest.mark.parametrize(
    ("n", "sparsity", "expected"),
    [(10, 0.0, 10), (10, 0.9, 1), (10, 0.84, 2), (10, 0.86, 1), (3, 0.99, 0), (1000, 0.9995, 0)],
)
def test_n_active_is_the_nearest(n, sparsity, expected):
    assert n_active(n, sparsity) == expected


# -- what cannot be met --------------------------------------------------------------------------


@given(models, st.floats(0.9, 0.99999), st.sampled_from(list(ON_BUDGET.values())))
def test_the_largest_feasible_sparsity_is_feasible(shapes, sparsity, rule):
    error = attempt(shapes, sparsity, rule)
    if isinstance(error, dict):
        assert min(error.values()) >= 1
        return
    largest = error.largest_feasible
    assert largest is not None
    assert 0 <= largest < sparsity
    assert f"{largest:g}" in str(error)
    assert min(allocate_counts(shapes, largest, rule).values()) >= 1


@pytest.mark.parametrize(
    ("shapes", "rule"),
    [
        ({"a": (50, 50)}, uniform()),
        ({"a": (50, 50)}, erdos_renyi_kernel()),
        ({"a": (30, 30), "b": (30, 30, 3, 3), "c": (10, 30)}, erdos_renyi_kernel()),
    ],
)
def test_slightly_more_than_the_largest_feasible_is_not(shapes, rule):
    with pytest.raises(InfeasibleSparsityError, match="leaves no connection in") as caught:
        allocate_counts(shapes, 0.9999, rule)
    largest = caught.value.largest_feasible
    allocate_counts(shapes, largest, rule)
    with pytest.raises(InfeasibleSparsityError):
        allocate_counts(shapes, largest + 2e-6, rule)


def test_the_boundary_by_hand():
    """Half a weight of 2500 rounds down to none: the boundary is 1 - 0.5 / 2500."""
    with pytest.raises(InfeasibleSparsityError, match=r"; 0.999\d* leaves every layer") as caught:
        allocate_counts({"only": (50, 50)}, 0.99995, uniform())
    assert caught.value.largest_feasible == pytest.approx(1 - 0.5 / 2500, abs=1.5e-6)
    assert "only" in str(caught.value)
    assert "uniform()" in str(caught.value)


def test_fixed_fractions_that_leave_nothing_have_no_larger_ones():
    shapes = {"a": (10, 10), "b": (3, 3)}
    for rule in (explicit({"a": 0.5, "b": 0.99}), erdos_renyi(epsilon=0.05)):
        with pytest.raises(InfeasibleSparsityError, match="lower sparsity") as caught:
            allocate_counts(shapes, None, rule)
        assert caught.value.largest_feasible is None


# -- sparsity and rules that fix it --------------------------------------------------------------


def test_a_sparsity_that_contradicts_a_fixing_rule():
    shapes = {"a": (100, 100), "b": (50, 100)}
    rule = explicit({"a": 0.5, "b": 0.2})
    assert allocate_counts(shapes, None, rule) == {"a": 5000, "b": 4000}
    assert allocate_counts(shapes, 0.4, rule) == {"a": 5000, "b": 4000}
    with pytest.raises(SparsityError, match=r"sparsity=0.5, but explicit.* gives 0.4: pass .*None"):
        allocate_counts(shapes, 0.5, rule)
    with pytest.raises(SparsityError, match=r"erdos_renyi\(epsilon=20\) gives"):
        allocate_counts(shapes, 0.9, erdos_renyi(epsilon=20))
    counted = allocate_counts(shapes, None, erdos_renyi(epsilon=20))
    assert counted == {"a": 4000, "b": 3000}
    assert allocate_counts(shapes, 1 - 7000 / 15_000, erdos_renyi(epsilon=20)) == counted


def test_none_needs_a_rule_that_fixes_it():
    with pytest.raises(SparsityError, match="does not fix it"):
        allocate_counts({"a": (10, 10)}, None, erdos_renyi_kernel())


def test_fractions_and_counts_agree_where_both_are_whole():
    shapes = {"a": (10, 10), "b": (20, 20)}
    assert allocate(shapes, 0.5, "uniform") == {"a": 0.5, "b": 0.5}
    assert allocate_counts(shapes, 0.5, uniform()) == {"a": 50, "b": 200}
