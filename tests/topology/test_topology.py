"""Topology: one set of connections in several forms, never changed."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import decisions, shapes, topologies
from structure_cases import PairsInRows

from regrow.errors import SparsityError
from regrow.topology import Topology, TopologyDelta, apply, pack_bits, unpack_bits


def longs(*values):
    return torch.tensor(values, dtype=torch.int64)


@given(topologies())
def test_forms_are_one_and_the_same(topology):
    shape, structure = topology.shape, topology.structure
    active = set(topology.units.tolist())
    every = torch.arange(math.prod(shape))
    unit_of = structure.unit_of(every, shape).tolist()
    elements = [e for e in every.tolist() if unit_of[e] in active]
    assert topology.mask.dtype == torch.bool
    assert tuple(topology.mask.shape) == shape
    assert topology.mask.flatten().nonzero().squeeze(1).tolist() == elements
    assert topology.indices.tolist() == elements
    assert topology.nnz == len(elements)
    assert topology.sparsity == pytest.approx(1 - len(elements) / math.prod(shape))
    assert topology.n_active == topology.units.numel() == int(topology.active.sum())
    assert topology.n_elements == math.prod(shape)
    assert topology.n_units == structure.n_units(shape)


@given(topologies())
def test_round_trips(topology):
    shape, structure = topology.shape, topology.structure
    kind = {"structure": structure, "allowed": topology.allowed}
    packed = pack_bits(topology.active)
    active = unpack_bits(packed, topology.n_units)
    of_elements = torch.zeros(math.prod(shape), dtype=torch.bool)
    of_elements[topology.indices] = True
    for other in (
        Topology(topology.units, shape, **kind),
        Topology.from_active(topology.active.clone(), shape, **kind),
        Topology.from_mask(topology.mask.clone(), **kind),
        Topology.from_mask(of_elements.view(shape), **kind),
        Topology.from_active(active, shape, **kind),
        topology.to("cpu"),
    ):
        assert other == topology
        assert torch.equal(other.units, topology.units)
        assert torch.equal(other.mask, topology.mask)
        assert other.n_active == topology.n_active


@given(topologies())
def test_counts_of_groups(topology):
    structure, shape = topology.structure, topology.shape
    expected = [0] * structure.n_groups(shape)
    for group in structure.group_of(topology.units, shape).tolist():
        expected[group] += 1
    assert topology.counts().tolist() == expected


@given(topologies())
def test_room_and_free_places(topology):
    structure, shape = topology.structure, topology.shape
    open_ = set(range(topology.n_units))
    if topology.allowed is not None:
        open_ = set(topology.allowed.nonzero().squeeze(1).tolist())
    room = [0] * structure.n_groups(shape)
    for group in structure.group_of(torch.tensor(sorted(open_), dtype=torch.int64), shape).tolist():
        room[group] += 1
    assert topology.room.tolist() == room
    assert topology.n_allowed == len(open_)
    assert topology.free.nonzero().squeeze(1).tolist() == sorted(
        open_ - set(topology.units.tolist())
    )
    assert bool((topology.counts() <= topology.room).all())
    before = topology.active.clone()
    topology.free.logical_not_()  # a tensor of its own: `rewire` writes to it
    assert torch.equal(topology.active, before)


@given(topologies().filter(lambda t: t.allowed is not None and not t.allowed.all()), st.data())
def test_what_is_not_allowed_is_refused(topology, data):
    structure, shape, allowed = topology.structure, topology.shape, topology.allowed
    outside = data.draw(st.sampled_from((~allowed).nonzero().squeeze(1).tolist()))
    active = topology.active.clone()
    active[outside] = True
    units = active.nonzero().squeeze(1)
    for make in (
        lambda: Topology(units, shape, structure=structure, allowed=allowed),
        lambda: Topology.from_active(active, shape, structure=structure, allowed=allowed),
        lambda: apply(topology, TopologyDelta(longs(), longs(outside))),
    ):
        with pytest.raises(SparsityError, match=rf"1 active units are not allowed: \[{outside}\]"):
            make()


@pytest.mark.parametrize("allowed", [torch.ones(3) > 0, torch.ones(4), torch.ones(2, 2) > 0])
def test_allowed_must_fit_the_shape(allowed):
    with pytest.raises(SparsityError, match=r"allowed must be a bool tensor of shape \(4,\)"):
        Topology(longs(0), (2, 2), allowed=allowed)


def test_allowed_is_part_of_what_a_topology_is():
    allowed = torch.tensor([True, True, True, False])
    topology = Topology(longs(0), (2, 2), allowed=allowed)
    assert topology == Topology(longs(0), (2, 2), allowed=allowed.clone())
    assert topology != Topology(longs(0), (2, 2))
    assert topology != Topology(longs(0), (2, 2), allowed=torch.ones(4) > 0)
    assert "n_allowed=3" in repr(topology)


@given(shapes)
def test_full_has_everything(shape):
    topology = Topology.full(shape)
    assert topology.nnz == math.prod(shape)
    assert topology.sparsity == 0
    assert bool(topology.mask.all())


@given(decisions())
def test_apply_is_the_set_arithmetic(case):
    topology, delta = case
    before = topology.units.tolist()
    dropped, grown = set(delta.dropped.tolist()), set(delta.grown.tolist())
    after = apply(topology, delta)
    assert after.units.tolist() == sorted((set(before) - dropped) | grown)
    assert after.n_active == after.units.numel() == len(before) - len(dropped) + len(grown)
    assert (after.shape, after.structure) == (topology.shape, topology.structure)
    assert after.allowed is topology.allowed


@given(decisions())
def test_apply_leaves_the_old_topology_alone(case):
    topology, delta = case
    active, mask, units = topology.active.clone(), topology.mask.clone(), topology.units
    dropped, grown = delta.dropped.clone(), delta.grown.clone()
    after = apply(topology, delta)
    assert torch.equal(topology.active, active)
    assert torch.equal(topology.mask, mask)
    assert torch.equal(topology.units, units)
    assert torch.equal(delta.dropped, dropped)
    assert torch.equal(delta.grown, grown)
    assert after.active.data_ptr() != topology.active.data_ptr()


@given(decisions())
def test_units_that_stay_are_in_neither_list(case):
    topology, delta = case
    back = apply(apply(topology, delta), TopologyDelta(delta.grown, delta.dropped))
    if not set(delta.dropped.tolist()) & set(delta.grown.tolist()):
        assert back == topology
    assert delta.is_empty == (delta.dropped.numel() + delta.grown.numel() == 0)


@pytest.mark.parametrize(
    ("dropped", "grown", "message"),
    [
        (longs(1), longs(), r"not active: \[1\]"),
        (longs(0, 1), longs(), r"not active: \[1\]"),
        (longs(), longs(3), r"active and not dropped: \[3\]"),
        (longs(0), longs(1, 3), r"active and not dropped: \[3\]"),
        (longs(3, 0), longs(), "dropped must be ascending"),
        (longs(0, 0), longs(), "dropped must be ascending"),
        (longs(), longs(2, 1), "grown must be ascending"),
        (longs(), longs(4), r"grown must .* \[0, 4\)"),
        (longs(-1), longs(), "dropped must"),
        (torch.tensor([0.0]), longs(), "dropped must be a one-dimensional tensor"),
        (longs(), torch.zeros(4, dtype=torch.bool), "grown must be a one-dimensional tensor"),
        (longs(0).unsqueeze(0), longs(), "dropped must be a one-dimensional tensor"),
    ],
)
def test_decisions_that_do_not_fit(dropped, grown, message):
    topology = Topology(longs(0, 3), (2, 2))
    with pytest.raises(SparsityError, match=message):
        apply(topology, TopologyDelta(dropped, grown))
    assert topology.units.tolist() == [0, 3]


@pytest.mark.parametrize(
    "units", [longs(1, 0), longs(1, 1), longs(-1, 0), longs(4), torch.tensor([0.5]), longs(0)[None]]
)
def test_units_that_are_none(units):
    with pytest.raises(SparsityError, match="units must"):
        Topology(units, (2, 2))


def test_active_must_fit_the_shape():
    for active in (torch.ones(3, dtype=torch.bool), torch.ones(4), torch.ones(2, 2) > 0):
        with pytest.raises(SparsityError, match=r"bool tensor of shape \(4,\)"):
            Topology.from_active(active, (2, 2))


def test_masks_must_be_boolean_and_keep_units_whole():
    with pytest.raises(SparsityError, match="bool"):
        Topology.from_mask(torch.ones(2, 2))
    mask = torch.tensor([[True, True, True, False]])
    with pytest.raises(SparsityError, match="cuts through units"):
        Topology.from_mask(mask, structure=PairsInRows())


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2, 2)])
def test_empty_weights_have_no_topology(shape):
    for make in (lambda: Topology(longs(), shape), lambda: Topology.full(shape)):
        with pytest.raises(SparsityError, match="no elements"):
            make()


def test_structures_are_checked():
    with pytest.raises(SparsityError, match="even"):
        Topology(longs(), (2, 3), structure=PairsInRows())


def test_a_mask_is_copied():
    mask = torch.tensor([[True, False], [False, True]])
    topology = Topology.from_mask(mask)
    mask[0, 1] = True
    assert topology.units.tolist() == [0, 3]


def test_equality_compares_shape_structure_and_connections():
    topology = Topology(longs(0), (2, 2))
    assert topology == Topology(longs(0), (2, 2))
    assert topology != Topology(longs(1), (2, 2))
    assert topology != Topology(longs(0), (4, 1))
    assert topology != Topology(longs(0), (2, 4))
    assert topology != Topology(longs(0), (2, 2), structure=PairsInRows())
    assert topology != "topology"
    with pytest.raises(TypeError, match="unhashable"):
        hash(topology)


def test_repr_says_what_matters():
    assert repr(Topology(longs(0), (2, 2))) == (
        "Topology(shape=(2, 2), structure=Unstructured(), nnz=1, sparsity=0.75)"
    )


@given(st.lists(st.booleans(), max_size=70))
def test_packing_is_one_bit_a_flag_highest_first(flags):
    packed = pack_bits(torch.tensor(flags, dtype=torch.bool))
    assert packed.dtype == torch.uint8
    padded = flags + [False] * (-len(flags) % 8)
    expected = [
        sum(flag << (7 - i) for i, flag in enumerate(padded[start : start + 8]))
        for start in range(0, len(padded), 8)
    ]
    assert packed.tolist() == expected
    assert unpack_bits(packed, len(flags)).tolist() == flags


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (torch.zeros(1, dtype=torch.uint8), r"shape \(2,\), got torch.uint8 \(1,\)"),
        (torch.zeros(3, dtype=torch.uint8), r"shape \(2,\), got torch.uint8 \(3,\)"),
        (torch.zeros(2, dtype=torch.int64), r"got torch.int64"),
        (torch.zeros(1, 2, dtype=torch.uint8), r"got torch.uint8 \(1, 2\)"),
        (torch.tensor([0, 1], dtype=torch.uint8), "behind the last of 9"),
        (torch.tensor([0, 64], dtype=torch.uint8), "behind the last of 9"),
    ],
)
def test_packed_flags_that_are_none(packed, message):
    with pytest.raises(SparsityError, match=message):
        unpack_bits(packed, 9)
