"""Budgets where units are larger than elements, groups are several, or places are few."""

from typing import Any

import pytest
import torch
from budget_cases import layer, standings
from torch import nn

import regrow
from regrow.allocation import allocate_counts, uniform
from regrow.criteria import gradient, magnitude, random
from regrow.errors import InfeasibleSparsityError, SparsityError
from regrow.topology import Topology, apply
from regrow.training import (
    MaskedWeight,
    Part,
    global_magnitude,
    per_group,
    per_layer,
    redistribute,
    rewire,
)
from regrow.training._shared_budgets import _that_fit


def structured_layer(structure: regrow.topology.Structure, shape: tuple[int, ...]) -> MaskedWeight:
    generator = torch.Generator().manual_seed(0)
    n_groups = structure.n_groups(shape)
    each = max(structure.n_units(shape) // n_groups // 2, 1)
    topology = regrow.topology.random_topology(
        shape, torch.full((n_groups,), each), generator=generator, structure=structure
    )
    weight = torch.rand(shape, generator=generator) + 0.1
    made = MaskedWeight("w", nn.Parameter(weight * topology.mask), topology)
    made.begin(0, 1, torch.ones(shape))
    return made


@pytest.mark.parametrize(("rounding", "n"), [("down", [2, 5, 0]), ("up", [3, 5, 1])])
def test_rounding_of_what_is_dropped(rounding: Any, n: list[int]) -> None:
    """Half of 5, 10 and 1; and a whole number stays what it is."""
    listed = standings([(10, 5), (20, 10), (10, 1)])
    for budget in (per_layer(rounding=rounding), global_magnitude(rounding=rounding)):
        assert [q.n_drop for q in budget(listed, 0.5, None)] == n
    assert [int(q.n_drop) for q in per_group(rounding=rounding)(listed, 0.5, None)] == n
    whole = standings([(200, 100)])  # 0.29 * 100 is 28.999999999999996, 0.07 * 100 above 7
    for budget in (per_layer(rounding=rounding), global_magnitude(rounding=rounding)):
        assert [budget(whole, f, None)[0].n_drop for f in (0.29, 0.07)] == [29, 7]


@pytest.mark.parametrize("make", [per_layer, per_group, global_magnitude])
def test_unknown_rounding(make: Any) -> None:
    with pytest.raises(ValueError, match="rounding must be one of down, up; got 'nearest'"):
        make(rounding="nearest")


def test_per_group_takes_no_target() -> None:
    for ask in (
        lambda: per_group()(standings([(10, 4)]), 0.5, 0.5),
        lambda: per_group().check([layer("a", 10, 4)], 0.5),
    ):
        with pytest.raises(SparsityError, match=r"per_group\(\) keeps the count .* no target"):
            ask()


def test_redistribute_takes_no_groups_and_no_units_of_different_sizes() -> None:
    runs = structured_layer(regrow.ChannelGroups(2), (4, 6))
    with pytest.raises(SparsityError, match=r"'w' ChannelGroups\(n=2\) fixes .*: use per_layer"):
        redistribute().check([layer("a", 10, 4), runs], None)
    kernels = structured_layer(regrow.Kernel(), (4, 6, 3, 3))
    with pytest.raises(SparsityError, match="different sizes: use per_layer"):
        redistribute().check([layer("a", 10, 4), kernels], None)
    redistribute().check([kernels, kernels], None)
    redistribute().check([layer("a", 10, 4), structured_layer(regrow.Kernel(), (4, 6))], None)


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (regrow.NM(2, 4), r"'w' cannot move to a target: NM.* at 0\.5; use a method"),
        (regrow.NM(4, 4), r"'w' cannot move to a target: NM.* at 0; use a method"),
        (regrow.ConstantFanIn(), r"in 'w' ConstantFanIn\(\) keeps groups even: pass budget="),
        (regrow.Kernel(per_output=True), "keeps groups even: pass budget="),
    ],
)
def test_structures_that_a_budget_over_all_layers_cannot_move(structure: Any, message: str) -> None:
    one = MaskedWeight(
        "w",
        nn.Parameter(torch.ones(4, 8)),
        regrow.topology.random_topology(
            (4, 8),
            round(32 * (1 - (structure.fixed_sparsity or 0.0))),
            generator=torch.Generator().manual_seed(0),
            structure=structure,
        ),
    )
    with pytest.raises(SparsityError, match=message):
        global_magnitude().check([layer("a", 10, 4), one], 0.7)
    global_magnitude().check([layer("a", 10, 4), one], None)
    if structure.fixed_sparsity is not None:
        with pytest.raises(SparsityError, match=message):
            per_layer(allocation=uniform()).check([one], 0.7)


def test_what_a_region_can_hold_bounds_redistribution() -> None:
    allowed = torch.arange(20) < 6
    topology = Topology(torch.arange(4), (1, 20), allowed=allowed)
    small = MaskedWeight("small", nn.Parameter(torch.ones(1, 20) * topology.mask), topology)
    small.begin(0, 1, torch.ones(1, 20))
    large = layer("large", 50, 20)
    budget = redistribute(lambda one, n: 1.0 if one.name == "small" else 0.0)
    deltas = rewire([small, large], drop=magnitude, grow=gradient, fraction=0.5, budget=budget)
    after = apply(topology, deltas["small"])
    assert after.units.tolist() == [0, 1, 2, 3, 4, 5]
    assert apply(large.topology, deltas["large"]).n_active == 18


def test_every_target_of_a_schedule_is_checked_before_anything_happens() -> None:
    asked = []

    class Asked:
        def __call__(self, *_: Any) -> Any:
            raise AssertionError("nothing is due yet")

        def check(self, layers: Any, target: float | None) -> None:
            asked.append(target)

    net = nn.Linear(8, 8)
    rule = regrow.Rule(
        drop=magnitude,
        grow=random,
        drop_fraction=lambda step: 0.0,
        window=regrow.schedules.UpdateWindow(interval=2, stop=12),
        target=regrow.schedules.cubic(0.1, 0.9, start=0, end=10),
        budget=Asked(),
    )
    layers = list(regrow.sparsify_(net, sparsity=0.1).values())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    regrow.TopologyUpdater(net, optimizer, parts=[Part(layers, rule)], seed=0)
    assert asked == pytest.approx([0.9 - 0.8 * (1 - t / 10) ** 3 for t in (10, 8, 6, 4, 2)])


def test_a_target_on_the_way_that_cannot_be_met_is_told_at_the_start() -> None:
    """Of 5 weights at 0.86 and 0.9 one stays; at 0.88 the larger layers' remainders come first."""
    shapes = {"0.weight": (9, 8), "1.weight": (8, 9), "2.weight": (5, 1)}
    for sparsity, feasible in ((0.86, True), (0.88, False), (0.9, True)):
        if feasible:
            assert allocate_counts(shapes, sparsity, uniform())["2.weight"] == 1
        else:
            with pytest.raises(InfeasibleSparsityError):
                allocate_counts(shapes, sparsity, uniform())
    net = nn.Sequential(*(nn.Linear(n_in, n_out) for n_out, n_in in shapes.values()))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = [p.detach().clone() for p in net.parameters()]
    options = {"n_steps": 100, "interval": 5, "allocation": uniform()}
    # 1.4 times the tenth that is left at last; then 1.2 times; then that tenth.
    with pytest.raises(
        InfeasibleSparsityError, match=r"sparsity=0\.88 cannot be met: .* 2\.weight"
    ):
        regrow.mest(net, optimizer, sparsity=0.9, soft_bound=0.4, **options)
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    assert not optimizer._optimizer_step_pre_hooks
    regrow.mest(net, optimizer, sparsity=0.9, soft_bound=0.0, **options)


@pytest.mark.parametrize("seed", range(20))
def test_units_of_different_sizes_fill_the_budget_as_far_as_whole_units_can(seed: int) -> None:
    """In the order of their scores, each that still fits, not only up to one that does not."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([1, 9, 25])[torch.randint(3, (40,), generator=generator)]
    order = torch.randperm(40, generator=generator)
    total = int(torch.randint(int(sizes.sum()) + 1, (1,), generator=generator))
    want, left = [], total
    for unit in order.tolist():
        if sizes[unit] <= left:
            want.append(unit)
            left -= int(sizes[unit])
    assert _that_fit(order, sizes[order], total).tolist() == sorted(want)
