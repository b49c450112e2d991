"""What topologies are built from: SparsityError or TypeError for all that cannot be one."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.errors import SparsityError
from regrow.topology import (
    NM,
    Block,
    ChannelGroups,
    ConstantFanIn,
    InChannel,
    Kernel,
    OutChannel,
    Topology,
    TopologyDelta,
    Transposed,
    Unstructured,
    apply,
    pack_bits,
    unpack_bits,
)

REFUSED = (SparsityError, TypeError)
STRUCTURES = [
    None, Unstructured(), NM(2, 4), ConstantFanIn(), Block(2, 2), Kernel(), Kernel(per_output=True),
    OutChannel(), InChannel(), ChannelGroups(2), Transposed(ConstantFanIn()),
]  # fmt: skip
SHAPES = [(4, 8), (4, 4, 3, 3), (6,), (), (1, 1), (3, 5), (2, 8, 1)]


class Subclass(torch.Tensor):
    pass


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # nested tensors are a prototype, says torch once
    NESTED = torch.nested.nested_tensor([torch.tensor([0, 3]), torch.tensor([1])])


DTYPES = [torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool, torch.float32,
          torch.float64, torch.bfloat16, torch.complex64]  # fmt: skip
NOT_TENSORS = [None, 3, 2.5, "1", b"\x01", [0, 1], (0,), {0}, {"a": 1}, object(), np.arange(3),
               np.zeros(32, dtype=bool), True, range(3), torch.int64, torch.Tensor]  # fmt: skip
FORMS = {
    "plain": lambda t: t,
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "column": lambda t: t.unsqueeze(-1),
    "row": lambda t: t.unsqueeze(0),
    "scalar": lambda t: t.sum(),
    "subclass": lambda t: t.as_subclass(Subclass),
    "nested": lambda t: NESTED,
    "with gradient": lambda t: torch.ones(t.shape, requires_grad=True),
}

numbers = st.one_of(
    st.integers(-3, 40), st.sampled_from([2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63)])
)


@st.composite
def unit_tensors(draw):
    """Tensors of indices, good and bad, and things that are no tensors."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from(NOT_TENSORS))
    values = draw(st.one_of(st.lists(numbers, max_size=6), st.sets(st.integers(0, 31)).map(sorted)))
    made = torch.tensor(values, dtype=torch.int64)
    dtype = draw(st.sampled_from([torch.int64] * 6 + DTYPES))
    form = draw(st.sampled_from(["plain"] * 8 + list(FORMS)))
    return _formed(made.to(dtype), form)


@st.composite
def flag_tensors(draw):
    """Tensors of one boolean a unit, good and bad, and things that are no tensors."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from(NOT_TENSORS))
    n = draw(st.sampled_from([0, 1, 6, 8, 15, 16, 31, 32, 33, 144]))
    made = torch.rand(n, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) < 0.5
    dtype = draw(st.sampled_from([torch.bool] * 6 + DTYPES))
    form = draw(st.sampled_from(["plain"] * 8 + list(FORMS)))
    return _formed(made.to(dtype), form)


def _formed(tensor, form):
    try:
        return FORMS[form](tensor)
    except (RuntimeError, NotImplementedError):
        return tensor


odd_shapes = st.one_of(
    st.sampled_from(SHAPES),
    st.sampled_from(
        [None, 4, "48", b"48", 4.0, (4.0, 8), (4, True), ("4", "8"), (4, None), (-4, -8), (-1,),
         (0,), (4, 0), (2**62, 2**62), (2**63,), (10**30, 1), [[4], 8], {4, 8}, {4: 8},
         np.array([4, 8]), torch.tensor([4, 8]), (4, math.nan), (4, math.inf)],
    ),
)  # fmt: skip
odd_structures = st.one_of(
    st.sampled_from(STRUCTURES),
    st.sampled_from([NM, Unstructured, "2:4", 4, object(), (2, 4), torch.zeros(2), Topology]),
)


def is_topology(made, shape, structure, allowed):
    """Everything that a topology promises, checked by loops."""
    structure = Unstructured() if structure is None else structure
    assert made.shape == tuple(shape)
    assert made.active.dtype == torch.bool
    n_units = structure.n_units(made.shape)
    assert tuple(made.active.shape) == (n_units,)
    active = [unit for unit in range(n_units) if bool(made.active[unit])]
    assert made.units.tolist() == active == sorted(set(active))
    assert made.n_active == len(active)
    assert made.nnz == int(made.mask.sum()) == len(made.indices)
    if allowed is not None:
        assert all(bool(allowed[unit]) for unit in active)
    counts = [0] * structure.n_groups(made.shape)
    for unit in active:
        counts[int(structure.group_of(torch.tensor([unit]), made.shape))] += 1
    assert made.counts().tolist() == counts
    if structure.even_groups:
        assert len({count for count in counts if count}) <= 1
    if structure.fixed_sparsity is not None:
        assert made.sparsity == pytest.approx(structure.fixed_sparsity)
    return True


@settings(max_examples=400)
@given(unit_tensors(), odd_shapes, odd_structures, st.one_of(st.none(), flag_tensors()))
def test_from_indices(units, shape, structure, allowed):
    try:
        made = Topology(units, shape, structure=structure, allowed=allowed)
    except REFUSED:
        return
    assert is_topology(made, shape, structure, allowed)
    assert made.units.tolist() == units.tolist()


@settings(max_examples=400)
@given(flag_tensors(), odd_shapes, odd_structures, st.one_of(st.none(), flag_tensors()))
def test_from_flags(active, shape, structure, allowed):
    try:
        made = Topology.from_active(active, shape, structure=structure, allowed=allowed)
    except REFUSED:
        return
    assert is_topology(made, shape, structure, allowed)


@settings(max_examples=200)
@given(
    st.one_of(flag_tensors(), st.sampled_from(SHAPES).map(lambda s: torch.ones(s, dtype=bool))),
    odd_structures,
    st.one_of(st.none(), flag_tensors()),
)
def test_from_masks(mask, structure, allowed):
    try:
        made = Topology.from_mask(mask, structure=structure, allowed=allowed)
    except REFUSED:
        return
    assert is_topology(made, mask.shape, structure, allowed)
    assert torch.equal(made.mask, mask)


@settings(max_examples=150)
@given(odd_shapes, odd_structures)
def test_full(shape, structure):
    try:
        made = Topology.full(shape, structure=structure)
    except REFUSED:
        return
    assert is_topology(made, shape, structure, None)
    assert made.nnz == made.n_elements


@settings(max_examples=200)
@given(unit_tensors(), unit_tensors())
def test_decisions(dropped, grown):
    before = Topology(torch.tensor([0, 3, 5, 30]), (4, 8), allowed=torch.arange(32) != 7)
    kept = before.active.clone()
    try:
        after = apply(before, TopologyDelta(dropped, grown))
    except REFUSED:
        assert torch.equal(before.active, kept)
        return
    assert torch.equal(before.active, kept)
    wanted = {0, 3, 5, 30} - set(dropped.tolist()) | set(grown.tolist())
    assert set(after.units.tolist()) == wanted
    assert 7 not in wanted


@settings(max_examples=200)
@given(flag_tensors(), st.integers(0, 40))
def test_packed_flags(packed, n):
    try:
        flags = unpack_bits(packed, n)
    except REFUSED:
        return
    assert flags.dtype == torch.bool
    assert tuple(flags.shape) == (n,)
    assert torch.equal(pack_bits(flags), packed)


@pytest.mark.parametrize(
    ("units", "shape", "keywords", "message"),
    [
        (torch.tensor([3, 0]), (2, 2), {}, "ascending"),
        (torch.tensor([0, 0]), (2, 2), {}, "without repeats"),
        (torch.tensor([-1, 0]), (2, 2), {}, r"lie in \[0, 4\)"),
        (torch.tensor([4]), (2, 2), {}, r"lie in \[0, 4\)"),
        (torch.tensor([0.0]), (2, 2), {}, "int64"),
        (torch.tensor([True]), (2, 2), {}, "int64"),
        (torch.tensor([[0]]), (2, 2), {}, "one-dimensional"),
        (torch.tensor([0], device="meta"), (2, 2), {}, "meta device"),
        ([0], (2, 2), {}, "units must be a torch.Tensor, got list"),
        (torch.tensor([0]), (2.0, 2), {}, "shape must be a tuple of integers"),
        (torch.tensor([0]), "22", {}, "shape must be a tuple of integers, got str"),
        (torch.tensor([0]), (2, -2), {}, "lengths of at least 0"),
        (torch.tensor([0]), (2**40, 2**40), {}, "elements in all"),
        (torch.tensor([0]), (2, 2), {"structure": NM}, r"make one, as in NM\(\)"),
        (torch.tensor([0]), (2, 2), {"structure": "2:4"}, "structure must be a structure"),
        (torch.tensor([0]), (2, 2), {"allowed": [True]}, "allowed must be a torch.Tensor"),
        (torch.tensor([0]), (2, 2), {"allowed": torch.ones(4)}, "allowed must be a bool"),
        (torch.tensor([0]), (2, 2), {"allowed": torch.arange(4) > 0}, "not allowed"),
    ],
)
def test_what_the_message_says(units, shape, keywords, message):
    with pytest.raises(REFUSED, match=message):
        Topology(units, shape, **keywords)
