"""Packed topologies damaged at random: refused with nothing changed, or loaded and sound."""

import copy
import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from state_cases import JUNK, TENSORS, differences
from torch import nn

from regrow.errors import SparsityError
from regrow.nn import SparseLinear
from regrow.nn._packed import pack_topology, unpack_topology
from regrow.topology import NM, Block, ConstantFanIn, OutChannel, Topology, Unstructured

REFUSED = (SparsityError, TypeError)
SHAPE = (6, 8)
KINDS = {
    "unstructured": Unstructured(),
    "2:4": NM(2, 4),
    "fan-in": ConstantFanIn(),
    "blocks": Block(2, 4),
    "outputs": OutChannel(),
}
ENDS = [-(2**31), -2, -1, 0, 1, 2, 5, 6, 7, 8, 9, 47, 48, 49, 2**31 - 1]


@functools.cache
def layer(kind):
    structure = KINDS[kind]
    sparsity = None if structure.fixed_sparsity is not None else 0.5
    return SparseLinear(8, 6, sparsity=sparsity, structure=structure, seed=2)


def packed_of(kind):
    return pack_topology(layer(kind).topology)


def is_sound(topology, kind):
    """What a topology promises, by loops."""
    assert topology.shape == SHAPE
    assert topology.structure == KINDS[kind]
    row_ptr, columns = (t.tolist() for t in topology.csr)
    flat = []
    for row in range(6):
        own = columns[row_ptr[row] : row_ptr[row + 1]]
        assert own == sorted(set(own))
        assert all(0 <= column < 8 for column in own)
        flat += [8 * row + column for column in own]
    assert topology.indices.tolist() == flat
    assert topology.nnz == len(flat) == topology.n_active * topology.unit_size
    again = Topology(topology.units, SHAPE, structure=KINDS[kind])
    assert again == topology


@given(st.sampled_from(list(KINDS)), st.data())
@settings(max_examples=150)
def test_damaged_numbers_are_refused_or_sound(kind, data):
    packed = packed_of(kind).clone()
    for _ in range(data.draw(st.integers(1, 3))):
        how = data.draw(st.sampled_from(["write", "write", "cut", "add", "swap", "bits"]))
        place = data.draw(st.integers(0, max(packed.numel() - 1, 0)))
        if how == "cut":
            packed = packed[:place]
        elif how == "add":
            more = data.draw(st.lists(st.sampled_from(ENDS), max_size=3))
            packed = torch.cat([packed, torch.tensor(more, dtype=torch.int32)])
        elif packed.numel() and how == "write":
            packed[place] = data.draw(st.sampled_from(ENDS))
        elif packed.numel() and how == "bits":
            numbers = packed.numpy()
            numbers[place] ^= np.int32(1) << np.int32(data.draw(st.integers(0, 30)))
        elif packed.numel():
            packed[[place, -1]] = packed[[-1, place]]
    before = packed.clone()
    try:
        topology = unpack_topology(packed, shape=SHAPE, structure=KINDS[kind])
    except SparsityError as error:
        assert len(str(error)) < 1000  # noqa: PT017
    else:
        is_sound(topology, kind)
        assert torch.equal(pack_topology(topology), before)
        packed.zero_()  # it keeps nothing of what was passed
        is_sound(topology, kind)
    assert packed.numel() == before.numel()


@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_refused(junk):
    with pytest.raises(REFUSED) as error:
        unpack_topology(JUNK[junk](), shape=SHAPE, structure=Unstructured())
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("change", TENSORS)
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_of_every_kind(kind, change):
    try:
        packed = TENSORS[change](packed_of(kind))
    except (RuntimeError, TypeError, IndexError, ValueError):
        return  # torch cannot make such a thing
    try:
        topology = unpack_topology(packed, shape=SHAPE, structure=KINDS[kind])
    except REFUSED:
        return
    is_sound(topology, kind)
    assert topology == layer(kind).topology


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("key", ["values", "_extra_state"])
@pytest.mark.parametrize("junk", JUNK)
def test_junk_in_a_state_dict_leaves_the_layer_alone(junk, key, strict):
    """torch's one error, whatever is there; others go on."""
    net = nn.Sequential(copy.deepcopy(layer("unstructured")))
    before = copy.deepcopy(net[0].state_dict())
    state = dict(net.state_dict())
    state[f"0.{key}"] = JUNK[junk]()
    with pytest.raises(RuntimeError, match="loading state_dict") as error:
        net.load_state_dict(state, strict=strict)
    assert len(str(error.value)) < 3000
    assert not differences(before, net[0].state_dict())
    net(torch.zeros(2, 8)).sum().backward()


@pytest.mark.parametrize("shape", [(48,), (48, 1), (8, 6), (6, 2, 4), (6, 9)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(SparsityError, match="begins with"):
        unpack_topology(packed_of("unstructured"), shape=shape, structure=Unstructured())
