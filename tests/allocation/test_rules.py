"""Allocation rules: properties of the solution, and what each rule takes."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import models, sparsities

from regrow.allocation import (
    RULES,
    allocate,
    erdos_renyi,
    erdos_renyi_kernel,
    explicit,
    fixes_sparsity,
    uniform,
)
from regrow.errors import SparsityError
from regrow.topology import Topology

SHAPES = {"a": (10, 20), "b": (8, 10, 3, 3), "c": (2, 8)}


def n_weights(shapes):
    return {name: math.prod(shape) for name, shape in shapes.items()}


@given(models, sparsities, st.sampled_from(["erdos_renyi_kernel", "erdos_renyi"]))
def test_erdos_renyi_scales_one_ratio_until_the_budget_is_met(shapes, sparsity, rule):
    """density = min(1, eps * ratio) for one eps, and RigL's whole numbers of weights in all."""
    found = allocate(shapes, sparsity, rule)
    assert list(found) == list(shapes)
    n = n_weights(shapes)
    budget = sum(size - math.floor(sparsity * size) for size in n.values())
    assert sum((1 - found[name]) * n[name] for name in shapes) == pytest.approx(budget)
    eps, tightest = [], []
    for name, shape in shapes.items():
        dims = shape if rule == "erdos_renyi_kernel" else shape[:2]
        ratio, density = sum(dims) / math.prod(dims), 1 - found[name]
        assert 0 < density <= 1
        if found[name] == 0:
            tightest.append(1 / ratio)
        else:
            eps.append(density / ratio)
    assert max(eps, default=0) <= min(eps, default=0) * (1 + 1e-9)
    # Only those are full that would overflow.
    assert max(tightest, default=0) <= min(eps, default=math.inf) * (1 + 1e-9)


@given(models, sparsities)
def test_the_kernel_makes_no_difference_without_one(shapes, sparsity):
    flat = {name: shape[:2] for name, shape in shapes.items()}
    assert allocate(flat, sparsity, "erdos_renyi") == allocate(flat, sparsity)


@given(models, sparsities)
def test_power_zero_is_uniform_up_to_whole_numbers(shapes, sparsity):
    found = allocate(shapes, sparsity, erdos_renyi_kernel(power=0.0))
    n = sum(n_weights(shapes).values())
    assert max(found.values()) - min(found.values()) < 1e-12
    assert sparsity - len(shapes) / n - 1e-9 <= found["layer0"] <= sparsity + 1e-9


def test_powers_raise_the_ratio():
    shapes = {"a": (100, 100), "b": (400, 400)}
    squared = allocate(shapes, 0.9, erdos_renyi_kernel(power=2.0))
    assert (1 - squared["a"]) / (1 - squared["b"]) == pytest.approx((4.0) ** 2)


def test_layers_tied_at_the_largest_ratio_are_full_together():
    shapes = {"a": (4, 4), "big": (60, 60), "b": (4, 4)}
    found = allocate(shapes, 0.8)
    assert found["a"] == found["b"] == 0
    assert (1 - found["big"]) * 3600 == pytest.approx(3632 - 12 - 12 - 2880 - 32)


def test_a_second_round_fills_what_the_first_one_pushed_over():
    """Only `a` overflows at first; what it cannot take then makes `b` overflow."""
    shapes = {"a": (1, 1), "b": (4, 5), "c": (100, 100)}
    first = (10_021 - sum(math.floor(0.55 * n) for n in (1, 20, 10_000))) / (2 + 9 + 200)
    assert first * 2 > 1
    assert allocate(shapes, 0.55)["b"] == 0


@given(models, sparsities)
def test_uniform(shapes, sparsity):
    assert allocate(shapes, sparsity, "uniform") == dict.fromkeys(shapes, sparsity)
    dense_first = allocate(shapes, sparsity, uniform(first_layer_dense=True))
    assert dense_first.pop("layer0") == 0
    assert set(dense_first.values()) <= {sparsity}


def test_sparsity_zero_is_dense_under_every_rule():
    for rule in RULES:
        assert allocate(SHAPES, 0, rule) == pytest.approx(dict.fromkeys(SHAPES, 0.0), abs=1e-12)


@given(models, st.floats(0.01, 50))
def test_epsilon_is_the_density_times_in_plus_out(shapes, epsilon):
    found = allocate(shapes, None, erdos_renyi(epsilon=epsilon))
    for name, shape in shapes.items():
        expected = min(1.0, epsilon * (shape[0] + shape[1]) / (shape[0] * shape[1]))
        assert 1 - found[name] == pytest.approx(expected)


@pytest.mark.parametrize("epsilon", [0, -1.0, float("nan")])
def test_epsilon_must_be_positive(epsilon):
    with pytest.raises(ValueError, match="epsilon must be positive"):
        erdos_renyi(epsilon=epsilon)


def test_explicit_gives_what_it_was_told():
    topology = Topology.from_mask(Topology.full((2, 8)).mask.tril())
    rule = explicit({"b": 0.25, "c": topology, "a": 0})
    assert allocate(SHAPES, None, rule) == {"a": 0.0, "b": 0.25, "c": topology.sparsity}
    assert list(allocate(SHAPES, None, rule)) == list(SHAPES)
    assert rule.topologies == {"c": topology}


def test_explicit_must_name_exactly_the_layers():
    for names, message in (
        ("abd", r"missing \['c'\], not selected \['d'\]"),
        ("ab", r"missing \['c'\], not selected \[\]"),
        ("abcd", r"missing \[\], not selected \['d'\]"),
    ):
        with pytest.raises(SparsityError, match=message):
            allocate(SHAPES, None, explicit(dict.fromkeys(names, 0.5)))
    wrong = Topology.full((8, 2))
    with pytest.raises(SparsityError, match=r"'c' a topology of shape \(8, 2\).*\(2, 8\)"):
        allocate(SHAPES, None, explicit({"a": 0.5, "b": 0.5, "c": wrong}))


@pytest.mark.parametrize("value", [1.0, -0.1, 50])
def test_explicit_fractions_are_checked(value):
    with pytest.raises(ValueError, match="sparsity of 'a' must lie in"):
        explicit({"a": value})


@pytest.mark.parametrize("rule", ["erdos_renyi_kernel", "erdos_renyi", "uniform"])
def test_rules_that_need_a_sparsity_say_so(rule):
    with pytest.raises(SparsityError, match=rf"sparsity=None, but {rule}\(\) does not fix it"):
        allocate(SHAPES, None, rule)


@pytest.mark.parametrize("sparsity", [1.0, -0.5, 90])
def test_sparsities_out_of_range(sparsity):
    with pytest.raises(ValueError, match=r"sparsity must lie in \[0, 1\)"):
        allocate(SHAPES, sparsity)


def test_unknown_rules_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="one of erdos_renyi_kernel, erdos_renyi, uniform"):
        allocate(SHAPES, 0.5, "erk")


def test_who_fixes_the_sparsity():
    assert fixes_sparsity(explicit({}))
    assert fixes_sparsity(erdos_renyi(epsilon=20))
    for rule in (erdos_renyi(), erdos_renyi_kernel(), uniform(), uniform(first_layer_dense=True)):
        assert not fixes_sparsity(rule)


def test_names_of_rules_are_the_calls_that_make_them():
    for rule in (
        erdos_renyi(),
        erdos_renyi(epsilon=20),
        erdos_renyi_kernel(),
        uniform(),
        uniform(first_layer_dense=True),
    ):
        assert eval(str(rule)) == rule


@given(models, sparsities)
def test_a_rule_of_the_users_own(shapes, sparsity):
    assume(sparsity < 0.9)

    def first_layer_only(shapes, sparsity):
        return {name: sparsity if i == 0 else 0.0 for i, name in enumerate(shapes)}

    found = allocate(shapes, sparsity, first_layer_only)
    assert found["layer0"] == sparsity
    assert sum(found.values()) == sparsity
