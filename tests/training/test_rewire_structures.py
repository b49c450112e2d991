"""Rewirings of every structure: counts of groups, allowed places, and a plain reference."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import allowed_units, generators, structured, topologies, topologies_of
from torch import Tensor, nn

from regrow.allocation import allocate_counts, uniform
from regrow.criteria import gradient, magnitude, random, signed_magnitude
from regrow.errors import SparsityError
from regrow.topology import (
    ConstantFanIn,
    OutChannel,
    Topology,
    TopologyDelta,
    Unstructured,
    apply,
    random_topology,
    spread_over_groups,
)
from regrow.training import MaskedWeight, global_magnitude, per_group, per_layer, rewire

REGROW = st.sampled_from(["keep", "zero", "never"])


def whole_numbers(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Few values, so that ties are common; doubles, so that sums of units are exact."""
    return torch.randint(-3, 4, shape, generator=generator).double()


def layer_of(
    topology: Topology,
    generator: torch.Generator,
    name: str = "w",
    *,
    with_grad: bool = True,
    channels_last: bool = False,
) -> MaskedWeight:
    weights = whole_numbers(topology.shape, generator) * topology.mask
    grad = whole_numbers(topology.shape, generator)
    if channels_last and len(topology.shape) == 4:
        weights = weights.contiguous(memory_format=torch.channels_last)
        grad = grad.contiguous(memory_format=torch.channels_last)
    layer = MaskedWeight(name, nn.Parameter(weights), topology)
    layer.begin(3, 1, grad if with_grad else None)
    return layer


def unit_scores(layer: MaskedWeight, values: Tensor) -> list[float]:
    """Sum of magnitudes over each unit, element by element."""
    structure, shape = layer.topology.structure, layer.topology.shape
    scores = [0.0] * layer.topology.n_units
    unit_of = structure.unit_of(torch.arange(values.numel()), shape).tolist()
    for element, unit in enumerate(unit_of):
        scores[unit] += abs(values.flatten()[element].item())
    return scores


def best(units: list[int], score: list[float], n: int) -> list[int]:
    return sorted(units, key=lambda unit: (-score[unit], unit))[:n]


def reference(
    layer: MaskedWeight, n_out: list[int] | int, regrow: str
) -> tuple[list[int], list[int]]:
    """Dropped and grown where counts stay, written with lists and sets, group by group.

    ``n_out`` are the drops over the layer, or of each group.
    """
    topology = layer.topology
    structure, shape = topology.structure, topology.shape
    weight = unit_scores(layer, layer.parameter.detach())
    growth = unit_scores(layer, layer.dense_grad)
    group_of = structure.group_of(torch.arange(topology.n_units), shape).tolist()
    active, free = topology.units.tolist(), topology.free.nonzero().squeeze(1).tolist()
    groups = range(structure.n_groups(shape))
    if not free:  # what leaves would be what enters
        return [], []
    if isinstance(n_out, int):
        out = set(active) - set(best(active, weight, len(active) - n_out))
        lost = [sum(group_of[unit] == g for unit in out) for g in groups]
    else:
        lost = n_out
    dropped, grown = [], []
    for g in groups:
        here = [unit for unit in active if group_of[unit] == g]
        open_ = [unit for unit in free if group_of[unit] == g]
        n = min(lost[g], len(open_)) if regrow == "never" else lost[g]
        gone = sorted(set(here) - set(best(here, weight, len(here) - n)))
        back = best(open_ if regrow == "never" else open_ + gone, growth, n)
        if regrow == "keep":
            gone, back = sorted(set(gone) - set(back)), sorted(set(back) - set(gone))
        dropped += gone
        grown += back
    return sorted(dropped), sorted(grown)


@settings(max_examples=250)
@given(topologies(), st.integers(0, 100), REGROW, generators(), st.booleans())
def test_what_is_dropped_over_the_layer_grows_in_its_own_group(
    topology: Topology, percent: int, regrow: Any, generator: torch.Generator, last: bool
) -> None:
    layer = layer_of(topology, generator, channels_last=last)
    delta = rewire([layer], drop=magnitude, grow=gradient, fraction=percent / 100, regrow=regrow)
    want = reference(layer, percent * topology.n_active // 100, regrow)
    assert (delta["w"].dropped.tolist(), delta["w"].grown.tolist()) == want
    check_after(topology, delta["w"])


@settings(max_examples=150)
@given(topologies(), st.integers(0, 100), REGROW, generators(), st.sampled_from(["down", "up"]))
def test_each_group_drops_and_grows_its_own_share(
    topology: Topology, percent: int, regrow: Any, generator: torch.Generator, rounding: Any
) -> None:
    layer = layer_of(topology, generator)
    delta = rewire(
        [layer],
        drop=magnitude,
        grow=gradient,
        fraction=percent / 100,
        regrow=regrow,
        budget=per_group(rounding=rounding),
    )["w"]
    counts = topology.counts().tolist()
    shares = [percent * n // 100 if rounding == "down" else -(-percent * n // 100) for n in counts]
    want = reference(layer, shares, regrow)
    assert (delta.dropped.tolist(), delta.grown.tolist()) == want
    check_after(topology, delta)


def check_after(topology: Topology, delta: TopologyDelta) -> None:
    """The count of every group stays, and nothing grows where it may not."""
    after = apply(topology, delta)
    assert torch.equal(after.counts(), topology.counts())
    if topology.allowed is not None:
        assert bool(topology.allowed[delta.grown].all())
        assert not bool((after.active & ~topology.allowed).any())


@settings(max_examples=100)
@given(topologies(), st.integers(0, 100), REGROW, st.sampled_from([magnitude, signed_magnitude]))
def test_random_growth_keeps_counts_and_is_derived(
    topology: Topology, percent: int, regrow: Any, drop: Any
) -> None:
    def decide() -> TopologyDelta:
        layer = layer_of(topology, torch.Generator().manual_seed(4), with_grad=False)
        return rewire([layer], drop=drop, grow=random, fraction=percent / 100, regrow=regrow)["w"]

    delta = decide()
    check_after(topology, delta)
    again = decide()
    assert delta.dropped.tolist() == again.dropped.tolist()
    assert delta.grown.tolist() == again.grown.tolist()


@settings(max_examples=100)
@given(topologies(), st.integers(0, 100), REGROW, generators())
def test_a_layer_without_gradient_keeps_its_topology(
    topology: Topology, percent: int, regrow: Any, generator: torch.Generator
) -> None:
    layer = layer_of(topology, generator, with_grad=False)
    for budget in (per_layer(), per_group()):
        delta = rewire(
            [layer],
            drop=magnitude,
            grow=gradient,
            fraction=percent / 100,
            regrow=regrow,
            budget=budget,
        )
        assert delta["w"].is_empty


# -- towards a target ------------------------------------------------------------------------


@st.composite
def movable(draw: st.DrawFn) -> Topology:
    """Topologies whose counts may move, every group of even ones filled."""
    structure, shape = draw(structured(fixed=False))  # those that fix theirs cannot
    allowed = draw(allowed_units(structure, shape))
    return draw(topologies_of(structure, shape, allowed=allowed, empty_groups=False))


@settings(max_examples=200)
@given(movable(), st.integers(0, 100), st.integers(0, 95), REGROW, generators(), st.booleans())
def test_per_layer_moves_every_group_to_its_count(
    topology: Topology,
    percent: int,
    target_percent: int,
    regrow: Any,
    generator: torch.Generator,
    has_grad: bool,
) -> None:
    structure, shape, target = topology.structure, topology.shape, target_percent / 100
    layer = layer_of(topology, generator, with_grad=has_grad)
    budget = per_layer(allocation=uniform())
    try:
        budget.check([layer], target)
    except SparsityError:
        return  # said so before anything happened
    counts = allocate_counts({"w": shape}, target, uniform(), structure=structure)
    want = spread_over_groups(structure, counts["w"], topology.room)
    options = {"drop": magnitude, "grow": gradient, "fraction": percent / 100, "regrow": regrow}
    delta = rewire([layer], budget=budget, target=target, **options)["w"]
    after = apply(topology, delta)
    if has_grad:
        assert torch.equal(after.counts(), want)
    else:
        assert torch.equal(after.counts(), torch.minimum(want, topology.counts()))
        assert delta.grown.numel() == 0
    if topology.allowed is not None:
        assert not bool((after.active & ~topology.allowed).any())


@settings(max_examples=150)
@given(
    st.lists(
        topologies(empty_groups=False).filter(lambda t: not t.structure.even_groups and t.n_active),
        min_size=1,
        max_size=3,
    ),
    st.integers(0, 100),
    st.integers(0, 99),
    REGROW,
    generators(),
)
def test_global_magnitude_leaves_as_many_as_whole_units_allow(
    listed: list[Topology],
    percent: int,
    target_percent: int,
    regrow: Any,
    generator: torch.Generator,
) -> None:
    layers = [layer_of(t, generator, f"l{i}") for i, t in enumerate(listed)]
    target, budget = target_percent / 100, global_magnitude()
    n_all = sum(t.n_elements for t in listed)
    total, before = round(n_all * (1 - target)), sum(t.nnz for t in listed)
    try:
        budget.check(layers, target)
    except SparsityError:
        assert total < sum(t.unit_size for t in listed)
        return
    deltas = rewire(
        layers,
        drop=magnitude,
        grow=gradient,
        fraction=percent / 100,
        budget=budget,
        target=target,
        regrow=regrow,
    )
    after = [apply(t, deltas[f"l{i}"]) for i, t in enumerate(listed)]
    nnz = sum(t.nnz for t in after)
    largest = max(t.unit_size for t in listed)
    if total >= before:
        assert nnz == before
        for old, new in zip(listed, after, strict=True):
            assert torch.equal(old.counts(), new.counts())
    else:
        assert total - largest < nnz <= total
        assert all(t.n_active >= 1 for t in after)
    if len({t.unit_size for t in listed}) == 1 and total < before:
        assert nnz == total // largest * largest
    for old, new in zip(listed, after, strict=True):
        if old.allowed is not None:
            assert not bool((new.active & ~old.allowed).any())


def test_units_of_all_sizes_compare_by_their_mean_element() -> None:
    """Rows of mean 3 and 1.5, elements of 2, 4 and 1: a row's sum of 3 does not beat the 2."""
    wide = Topology.full((2, 2), structure=OutChannel())
    fine = Topology.full((1, 3), structure=Unstructured())
    layers = []
    for name, topology, values in (
        ("wide", wide, [[3.0, 3.0], [1.5, 1.5]]),
        ("fine", fine, [[2.0, 4.0, 1.0]]),
    ):
        layers.append(MaskedWeight(name, nn.Parameter(torch.tensor(values)), topology))
        layers[-1].begin(0, 1, None)
    deltas = rewire(
        layers,
        drop=magnitude,
        grow=random,
        fraction=0.0,
        budget=global_magnitude(),
        target=3 / 7,
    )
    assert deltas["wide"].dropped.tolist() == [1]
    assert deltas["fine"].dropped.tolist() == [2]


# -- corners ---------------------------------------------------------------------------------


def test_never_is_limited_group_by_group() -> None:
    """The first output is full but for one place: of the three it would lose, it loses one."""
    weights = torch.tensor([[1.0, 2.0, 3.0, 0.0], [7.0, 0.0, 8.0, 9.0]])
    topology = Topology.from_mask(weights != 0, structure=ConstantFanIn())
    layer = MaskedWeight("w", nn.Parameter(weights), topology)
    layer.begin(0, 1, torch.ones(2, 4))
    delta = rewire([layer], drop=magnitude, grow=gradient, fraction=0.5, regrow="never")["w"]
    assert (delta.dropped.tolist(), delta.grown.tolist()) == ([0], [3])


def test_ablated_outputs_stay_so() -> None:
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    topology = Topology.from_mask(weights != 0, structure=ConstantFanIn())
    layer = MaskedWeight("w", nn.Parameter(weights), topology)
    layer.begin(0, 1, torch.full((3, 3), 5.0))
    for fraction in (0.5, 1.0):
        delta = rewire([layer], drop=magnitude, grow=gradient, fraction=fraction, regrow="never")
        assert apply(topology, delta["w"]).counts().tolist() == [1, 0, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_gradients_and_weights_that_are_no_numbers_keep_counts(bad: float) -> None:
    """A not-finite gradient never reaches `rewire` in training; even so nothing breaks."""
    generator = torch.Generator().manual_seed(0)
    topology = random_topology(
        (4, 8), torch.tensor([3, 3, 3, 3]), generator=generator, structure=ConstantFanIn()
    )
    layer = layer_of(topology, generator)
    layer.dense_grad[:, ::2] = bad
    with torch.no_grad():
        layer.parameter[0, topology.mask[0].nonzero()[0]] = bad
    for regrow in ("keep", "zero", "never"):
        delta = rewire([layer], drop=magnitude, grow=gradient, fraction=0.6, regrow=regrow)["w"]
        check_after(topology, delta)


@pytest.mark.parametrize("allocation_target", [0.5, 0.75])
def test_a_target_that_even_groups_cannot_hold_is_refused_at_the_start(
    allocation_target: float,
) -> None:
    """Two of the first output's places are allowed, and the target needs more of each."""
    allowed = torch.ones(32, dtype=torch.bool)
    allowed[1:8] = False
    topology = Topology(
        torch.tensor([0, 8, 16, 24]), (4, 8), structure=ConstantFanIn(), allowed=allowed
    )
    layer = MaskedWeight("w", nn.Parameter(torch.ones(4, 8) * topology.mask), topology)
    with pytest.raises(SparsityError, match=r"'w' .*units at sparsity .*cannot be split"):
        per_layer(allocation=uniform()).check([layer], allocation_target)
    per_layer(allocation=uniform()).check([layer], 7 / 8)
