"""Topology: one set of connections in several forms, never changed."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import PairsInRows, decisions, pair_shapes, shapes, topologies

from regrow.errors import SparsityError
from regrow.topology import Topology, TopologyDelta, apply, pack_bits, unpack_bits


def longs(*values):
    return torch.tensor(values, dtype=torch.int64)


@given(topologies())
def test_forms_are_one_and_the_same(topology):
    shape, structure = topology.shape, topology.structure
    size = math.prod(shape) // structure.n_units(shape)
    elements = sorted(e for u in topology.units.tolist() for e in range(u * size, (u + 1) * size))
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
    packed = pack_bits(topology.active)
    active = unpack_bits(packed, topology.n_units)
    for other in (
        Topology(topology.units, shape, structure=structure),
        Topology.from_active(topology.active.clone(), shape, structure=structure),
        Topology.from_mask(topology.mask.clone(), structure=structure),
        Topology.from_active(active, shape, structure=structure),
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


@given(pair_shapes)
def test_units_partition_the_elements(shape):
    """Of the structure that the other tests lean on, and of any other."""
    structure = PairsInRows()
    units = torch.arange(structure.n_units(shape))
    elements = structure.elements_of(units, shape)
    assert sorted(elements.flatten().tolist()) == list(range(math.prod(shape)))
    for column in elements.T:
        assert torch.equal(structure.unit_of(column, shape), units)


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
        ([0, 0], r"got \[0, 0\]"),
        (torch.tensor([0, 1], dtype=torch.uint8), "behind the last of 9"),
        (torch.tensor([0, 64], dtype=torch.uint8), "behind the last of 9"),
    ],
)
def test_packed_flags_that_are_none(packed, message):
    with pytest.raises(SparsityError, match=message):
        unpack_bits(packed, 9)
