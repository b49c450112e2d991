"""How many units each layer drops and grows."""

import math

import pytest
import torch
from budget_cases import layer, standing, standings
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import regrow
from regrow.allocation import allocate_counts, uniform
from regrow.criteria import gradient, magnitude, random
from regrow.errors import InfeasibleSparsityError, SparsityError
from regrow.topology import apply
from regrow.training import (
    Part,
    by_momentum,
    by_nnz,
    global_magnitude,
    per_layer,
    redistribute,
    rewire,
)

# -- per layer -------------------------------------------------------------------------------


def test_per_layer_grows_what_it_drops() -> None:
    quotas = per_layer()(standings([(10, 4), (10, 10), (10, 0)]), 0.5, None)
    assert quotas == [(0, 2, 2), (0, 5, 5), (0, 0, 0)]


def test_per_layer_without_growth_drops_nothing() -> None:
    assert per_layer()(standings([(10, 4)], can_grow=[False]), 0.5, None) == [(0, 0, 0)]


def test_per_layer_moves_to_the_allocation_of_its_target() -> None:
    budget = per_layer(allocation=uniform())
    # Two fifths of each stay: 4 and 8; the second holds fewer than that and grows.
    quotas = budget(standings([(10, 6), (20, 5)]), 0.25, 0.6)
    assert quotas == [(2, 1, 1), (0, 1, 4)]
    blind = budget(standings([(10, 6), (20, 5)], can_grow=[False, False]), 0.25, 0.6)
    assert blind == [(2, 0, 0), (0, 0, 0)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(5, 40), st.floats(0.1, 1)), min_size=1, max_size=5),
    st.integers(0, 100),
    st.floats(0, 0.8),
)
def test_per_layer_reaches_its_target_in_one_rewiring(
    sizes: list[tuple[int, float]], percent: int, target: float
) -> None:
    layers = [layer(f"l{i}", n, max(int(n * f), 1)) for i, (n, f) in enumerate(sizes)]
    budget = per_layer(allocation=uniform())
    deltas = rewire(
        layers, drop=magnitude, grow=random, fraction=percent / 100, budget=budget, target=target
    )
    want = allocate_counts({x.name: x.topology.shape for x in layers}, target, uniform())
    for one in layers:
        assert apply(one.topology, deltas[one.name]).n_active == want[one.name]


def test_per_layer_says_what_is_feasible_before_anything_happens() -> None:
    net = nn.Linear(10, 10)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = net.weight.detach().clone()
    with pytest.raises(InfeasibleSparsityError, match="cannot be met"):
        regrow.mest(net, optimizer, sparsity=0.999, n_steps=100, interval=5)
    assert torch.equal(net.weight, before)


# -- global magnitude ------------------------------------------------------------------------


def test_global_magnitude_takes_the_lowest_of_all_layers() -> None:
    # Weights 1..4 and 1..6: the five largest are 4 | 3, 4, 5, 6 with the tie at 3 and 4 ...
    quotas = global_magnitude()(standings([(10, 4), (10, 6)]), 0.0, 1 - 5 / 20)
    # ... 6, 5, 4, 4 and one 3: that of the earlier layer.
    assert quotas == [(2, 0, 0), (3, 0, 0)]


def test_global_magnitude_never_cuts_a_layer_off() -> None:
    weak, strong = layer("weak", 10, 3), layer("strong", 10, 10)
    with torch.no_grad():
        strong.parameter.add_(100)
    listed = [standing(weak), standing(strong)]
    assert global_magnitude()(listed, 0.0, 0.9) == [(2, 0, 0), (9, 0, 0)]
    # The other way round, with two protected in each.
    assert global_magnitude(least=2)(listed, 0.0, 0.75) == [(1, 0, 0), (7, 0, 0)]


def test_global_magnitude_does_not_grow_towards_a_target() -> None:
    quotas = global_magnitude()(standings([(10, 4), (10, 6)]), 0.5, 0.1)
    assert quotas == [(0, 2, 2), (0, 3, 3)]


def test_global_magnitude_says_the_largest_feasible_sparsity() -> None:
    layers = [layer("a", 10, 10), layer("b", 90, 90)]
    global_magnitude().check(layers, 0.98)
    with pytest.raises(InfeasibleSparsityError, match=r"largest sparsity .* is 0\.98") as caught:
        global_magnitude().check(layers, 0.99)
    assert caught.value.largest_feasible == pytest.approx(0.98, abs=2e-6)
    global_magnitude().check(layers, caught.value.largest_feasible)


def test_a_final_target_that_cannot_be_met_raises_at_the_start() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(InfeasibleSparsityError):
        regrow.gradual(net, optimizer, sparsity=0.97, n_steps=100, interval=5)
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    assert not optimizer._optimizer_step_pre_hooks


# -- redistribute ----------------------------------------------------------------------------


def test_redistribute_in_proportion_to_what_is_left() -> None:
    # Half goes: 4, 6 and 2 are left, of 12; 12 are grown, 4, 6 and 2.
    quotas = redistribute()(standings([(100, 8), (100, 12), (100, 4)]), 0.5, None)
    assert quotas == [(0, 4, 4), (0, 6, 6), (0, 2, 2)]


def test_what_rounding_leaves_does_not_all_go_to_the_largest() -> None:
    # 40 are grown. The first claims half of them, 20 others half a unit or a unit each.
    sizes = [(200, 40)] + [(200, 2)] * 20
    budget = redistribute(lambda one, n: 20.0 if one.name == "l0" else 1.0)
    quotas = budget(standings(sizes), 0.5, None)
    assert sum(q.n_grow for q in quotas) == 40
    assert [q.n_grow for q in quotas] == [20] + [1] * 20
    halves = redistribute(lambda one, n: 40.0 if one.name == "l0" else 1.0)
    quotas = halves(standings(sizes), 0.5, None)  # 26.67 and 0.67 each
    assert quotas[0].n_grow in {26, 27}
    assert all(q.n_grow in {0, 1} for q in quotas[1:])


def test_full_layers_pass_on_the_rest() -> None:
    # 4 and 5 are dropped, 6 and 9 kept, room for 4 and 91; 9 are grown: 3.6 and 5.4.
    quotas = redistribute()(standings([(10, 10), (100, 14)]), 0.4, None)
    assert [q.n_drop for q in quotas] == [4, 5]
    assert [q.n_grow for q in quotas] in ([4, 5], [3, 6])
    narrow = redistribute(lambda one, n: 1.0 if one.name == "l0" else 0.0)
    quotas = narrow(standings([(10, 10), (100, 14)]), 0.4, None)
    assert [q.n_grow for q in quotas] == [4, 5]  # the one that claims nothing takes what is left


def test_redistribute_by_momentum_reads_the_state() -> None:
    net = nn.Sequential(nn.Linear(20, 20, bias=False), nn.Linear(20, 20, bias=False))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    layers = list(regrow.sparsify_(net, sparsity=0.5, allocation=uniform()).values())
    for one, size in zip(layers, (3.0, 1.0), strict=True):
        one.optimizer = optimizer
        one.begin(0, 1, torch.ones(20, 20))
        buffer = torch.full((20, 20), -size)
        optimizer.state[one.parameter]["momentum_buffer"] = buffer
    assert by_momentum(layers[0], 7) == 3.0
    assert by_nnz(layers[0], 7) == 7.0
    deltas = rewire(
        layers,
        drop=magnitude,
        grow=random,
        fraction=0.2,
        budget=redistribute(by_momentum),
        regrow="never",
    )
    # 40 go of each; 80 are grown, 60 and 20.
    assert [deltas[x.name].grown.numel() for x in layers] == [60, 20]


def test_redistribute_takes_no_target() -> None:
    with pytest.raises(SparsityError, match="takes no target"):
        redistribute()(standings([(10, 4)]), 0.5, 0.5)
    with pytest.raises(SparsityError, match="takes no target"):
        redistribute().check([layer("a", 10, 4)], 0.5)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.integers(0, 30), st.integers(0, 4), st.booleans()),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 100),
)
def test_redistribute_keeps_the_total_within_room(
    rows: list[tuple[int, int, int, bool]], percent: int
) -> None:
    sizes = [(n, min(a, n)) for n, a, _, _ in rows]
    claims = {f"l{i}": claim for i, (_, _, claim, _) in enumerate(rows)}
    can_grow = [flag for _, _, _, flag in rows]
    budget = redistribute(lambda one, n: float(claims[one.name]))
    quotas = budget(standings(sizes, can_grow=can_grow), percent / 100, None)
    drops = [
        percent * a // 100 if flag else 0 for (_, a), flag in zip(sizes, can_grow, strict=True)
    ]
    assert [q.n_drop for q in quotas] == drops
    assert sum(q.n_grow for q in quotas) == sum(drops)
    rooms = [
        n - a + d if flag else 0 for (n, a), d, flag in zip(sizes, drops, can_grow, strict=True)
    ]
    assert all(0 <= q.n_grow <= room for q, room in zip(quotas, rooms, strict=True))
    weight = sum(c for c, room in zip(claims.values(), rooms, strict=True) if room)
    if weight:
        ideal = [
            sum(drops) * c / weight if room else 0.0
            for c, room in zip(claims.values(), rooms, strict=True)
        ]
        if all(share <= room for share, room in zip(ideal, rooms, strict=True)):
            # Nobody is full: each is within one unit of its share.
            assert all(
                math.floor(share) <= q.n_grow <= math.ceil(share)
                for q, share in zip(quotas, ideal, strict=True)
            )


def test_a_budget_drives_an_updater() -> None:
    net = nn.Sequential(nn.Linear(20, 20, bias=False), nn.ReLU(), nn.Linear(20, 20, bias=False))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    layers = list(regrow.sparsify_(net, sparsity=0.8).values())
    rule = regrow.Rule(
        drop=magnitude,
        grow=gradient,
        drop_fraction=lambda step: 0.3,
        window=regrow.schedules.UpdateWindow(interval=2, stop=12),
        budget=redistribute(by_momentum),
        regrow="never",
    )
    updater = regrow.TopologyUpdater(net, optimizer, parts=[Part(layers, rule)], seed=0)
    generator = torch.Generator().manual_seed(0)
    start = updater.nnz
    first = [t.nnz for t in updater.topologies.values()]
    for _ in range(12):
        net(torch.randn(8, 20, generator=generator)).pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert updater.nnz == start
    assert updater.rewirings == 5
    assert [t.nnz for t in updater.topologies.values()] != first
