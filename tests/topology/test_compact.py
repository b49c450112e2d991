"""Topologies as compressed rows: they say what those of one boolean a unit say."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import generators, shapes, structured, subset, topologies, topologies_of
from structure_cases import PairsInRows

import regrow
from regrow.errors import SparsityError
from regrow.topology import (
    NM,
    Block,
    ConstantFanIn,
    Topology,
    TopologyDelta,
    apply,
    derived_generator,
    random_topology,
)

plain = topologies(with_allowed=False)
TENSORS = ("units", "indices", "active", "mask", "free", "room")
NUMBERS = ("shape", "structure", "n_active", "n_units", "n_elements", "n_allowed", "nnz")
NUMBERS += ("unit_size", "sparsity", "allowed")


def ints(*values):
    return torch.tensor(values, dtype=torch.int32)


def longs(*values):
    return torch.tensor(values, dtype=torch.int64)


def assert_same(one, other):
    """Every public property of two topologies."""
    for name in TENSORS:
        a, b = getattr(one, name), getattr(other, name)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        assert torch.equal(a, b), name
    for name in NUMBERS:
        assert getattr(one, name) == getattr(other, name), name
    assert torch.equal(one.counts(), other.counts())
    assert all(torch.equal(a, b) for a, b in zip(one.csr, other.csr, strict=True))
    every = torch.arange(one.n_units)
    assert torch.equal(one.is_active(every), other.is_active(every))
    assert one == other
    assert other == one
    assert repr(one) == repr(other)
    assert one.device == other.device


def public_names():
    topology = Topology(longs(0), (2, 2))
    return {name for name in {*dir(Topology), *vars(topology)} if not name.startswith("_")}


def test_every_public_name_is_compared_here():
    """A new property must be looked at in both forms."""
    made_by = {"from_active", "from_csr", "from_mask", "full"}
    rest = {"compact", "is_compact", "to", "device", "counts", "csr", "is_active"}
    assert public_names() - made_by - rest == {*TENSORS, *NUMBERS}


@given(plain)
def test_both_forms_say_the_same(topology):
    compact = topology.compact()
    assert compact.is_compact
    assert not topology.is_compact
    assert compact.compact() is compact
    assert_same(compact, topology)


@given(plain)
def test_compressed_rows_are_those_of_the_weight_as_a_matrix(topology):
    n_rows = topology.shape[0] if topology.shape else 1
    matrix = topology.mask.reshape(n_rows, -1)
    row_ptr, columns = topology.compact().csr
    assert (row_ptr.dtype, columns.dtype) == (torch.int64, torch.int32)
    ends = row_ptr.tolist()
    assert len(ends) == n_rows + 1
    for row, (low, high) in enumerate(itertools.pairwise(ends)):
        assert columns[low:high].tolist() == matrix[row].nonzero().squeeze(1).tolist()
    again = Topology.from_csr(row_ptr, columns, topology.shape, structure=topology.structure)
    assert_same(again, topology)


@st.composite
def cases(draw):
    """A topology, and a decision that it allows; some units are dropped and grown at once."""
    before = draw(plain)
    after = draw(topologies_of(before.structure, before.shape))
    both = subset(draw, (before.active & after.active).nonzero().squeeze(1))
    dropped, grown = before.active & ~after.active, after.active & ~before.active
    dropped[both] = grown[both] = True
    return before, TopologyDelta(dropped.nonzero().squeeze(1), grown.nonzero().squeeze(1))


@given(cases())
def test_decisions_do_the_same_to_both_forms(case):
    topology, delta = case
    compact = topology.compact()
    before = [tensor.clone() for tensor in compact.csr]
    after = apply(compact, delta)
    assert after.is_compact
    assert_same(after, apply(topology, delta))
    assert all(torch.equal(a, b) for a, b in zip(before, compact.csr, strict=True))
    small = TopologyDelta(delta.dropped.to(torch.int32), delta.grown.to(torch.int32))
    assert apply(compact, small) == after == apply(topology, small)


@given(plain, st.data())
def test_what_does_not_fit_is_refused_by_both(topology, data):
    """The same words, whatever the form."""
    units = st.lists(st.integers(-2, topology.n_units + 1), max_size=4)
    delta = TopologyDelta(longs(*data.draw(units)), longs(*data.draw(units)))
    said = []
    for one in (topology, topology.compact()):
        try:
            said.append(apply(one, delta).units.tolist())
        except SparsityError as error:
            said.append(str(error))
    assert said[0] == said[1]


@given(plain)
def test_equality_and_copies(topology):
    compact = topology.compact()
    assert copy.deepcopy(compact) is compact
    loaded = pickle.loads(pickle.dumps(compact))
    assert loaded.is_compact
    assert_same(loaded, compact)
    assert compact.to("cpu") is compact
    structure = topology.structure
    may_differ = not structure.even_groups and structure.fixed_sparsity is None
    if topology.n_active and may_differ:
        other = apply(compact, TopologyDelta(compact.units[:1], longs()))
        assert other != compact
        assert other != topology
        assert topology != other


@given(structured(), generators(), st.floats(0, 1))
def test_draws_are_the_same_in_both_forms(kind, generator, share):
    structure, shape = kind
    n_groups, n_units = structure.n_groups(shape), structure.n_units(shape)
    count = n_groups * int(share * (n_units // n_groups))
    if structure.fixed_sparsity is not None:
        count = round(n_units * (1 - structure.fixed_sparsity))
    state = generator.get_state()
    drawn = []
    for compact in (False, True):
        generator.set_state(state)
        try:
            drawn.append(
                random_topology(
                    shape, count, generator=generator, structure=structure, compact=compact
                )
            )
        except SparsityError as error:
            drawn.append(str(error))
    if isinstance(drawn[0], str):
        assert drawn[0] == drawn[1]
        return
    assert [topology.is_compact for topology in drawn] == [False, True]
    assert drawn[0].n_active == count
    assert_same(*drawn)


@given(shapes)
def test_empty_and_full(shape):
    full = Topology.full(shape).compact()
    assert_same(full, Topology.full(shape))
    empty = apply(full, TopologyDelta(full.units, longs()))
    assert empty.nnz == 0
    assert_same(empty, Topology(longs(), shape))
    assert apply(empty, TopologyDelta(longs(), full.units)) == full


def test_a_mask_is_made_anew_and_the_rows_are_kept():
    """A dense tensor that was asked for once shall not stay."""
    topology = random_topology((50, 40), 20, generator=derived_generator(0), compact=True)
    assert topology.mask is not topology.mask
    held = [t for t in vars(topology).values() if isinstance(t, torch.Tensor)]
    assert not held
    rows = list(topology.csr)
    assert all(a is b for a, b in zip(rows, topology.csr, strict=True))
    assert sum(t.untyped_storage().nbytes() for t in rows) == 4 * 20 + 8 * 51


def test_units_that_may_not_be_active_keep_a_topology_in_flags():
    topology = Topology(longs(0), (2, 2), allowed=torch.tensor([True, True, True, False]))
    with pytest.raises(SparsityError, match="3 of 4: keep the weight masked"):
        topology.compact()


@pytest.mark.parametrize("shape", [(2, 2**31), (2**31, 2), (1, 2**16, 2**15)])
def test_weights_that_are_too_large_for_int32_columns(shape):
    """Refused before anything of that size is made."""
    row_ptr = torch.zeros(2, dtype=torch.int64).expand(2)
    with pytest.raises(SparsityError, match=f"at most {2**31 - 1} rows, columns"):
        Topology.from_csr(row_ptr, ints(), shape)


def test_large_weights_are_cheap():
    """2e9 elements, three connections."""
    shape = (20_000, 100_000)
    row_ptr = torch.zeros(20_001, dtype=torch.int64)
    row_ptr[5:] = 2
    row_ptr[20_000:] = 3
    topology = Topology.from_csr(row_ptr, ints(7, 99_999, 3), shape)
    assert topology.indices.tolist() == [400_007, 499_999, 1_999_900_003]
    assert topology.n_elements == 2_000_000_000
    assert topology.is_active(longs(400_007, 400_008, 1_999_900_003)).tolist() == [
        True,
        False,
        True,
    ]
    after = apply(topology, TopologyDelta(longs(499_999), longs(0, 1_999_999_999)))
    assert after.indices.tolist() == [0, 400_007, 1_999_900_003, 1_999_999_999]


@pytest.mark.parametrize(
    ("row_ptr", "columns", "error", "message"),
    [
        (longs(0, 1, 2), [0, 1], TypeError, "columns must be a torch.Tensor"),
        (None, ints(0, 1), TypeError, "row_ptr must be a torch.Tensor"),
        (longs(0, 1), ints(0), SparsityError, r"row_ptr must be torch.int64 of shape \(3,\)"),
        (ints(0, 1, 2), ints(0, 1), SparsityError, "row_ptr must be torch.int64"),
        (longs(0, 1, 2), longs(0, 1), SparsityError, "columns must be torch.int32"),
        (longs(0, 1, 2), ints(0, 1)[None], SparsityError, "columns must be torch.int32 of shape"),
        (longs(0, 1, 3), ints(0, 1), SparsityError, r"rise from 0 .* 2; got \(0, 3\)"),
        (longs(1, 1, 2), ints(0, 1), SparsityError, r"rise from 0 .*; got \(1, 2\)"),
        (longs(0, 3, 2), ints(0, 1), SparsityError, "row_ptr must rise"),
        (longs(0, -1, 2), ints(0, 1), SparsityError, "row_ptr must rise"),
        (longs(0, 2, 2), ints(1, 0), SparsityError, "columns must ascend"),
        (longs(0, 2, 2), ints(1, 1), SparsityError, "columns must ascend"),
        (longs(0, 1, 2), ints(0, 3), SparsityError, r"\[0, 3\), got 0 to 3"),
        (longs(0, 1, 2), ints(-1, 1), SparsityError, r"\[0, 3\), got -1 to 1"),
        (longs(0, 1, 2).to("meta"), ints(0, 1), SparsityError, "row_ptr must be a dense tensor"),
        (longs(0, 1, 2), ints(0, 1).to_sparse(), SparsityError, "columns must be a dense tensor"),
    ],
)
def test_rows_that_are_none(row_ptr, columns, error, message):
    with pytest.raises(error, match=message):
        Topology.from_csr(row_ptr, columns, (2, 3))


@pytest.mark.parametrize(
    ("row_ptr", "columns"),
    [
        ((0, 0, 3, 3, 6), (1, 2, 4, 0, 3, 5)),
        ((0, 0, 0, 0, 0), ()),
        ((0, 6, 6, 6, 6), (0, 1, 2, 3, 4, 5)),
    ],
)
def test_rows_may_begin_below_the_end_of_those_before(row_ptr, columns):
    topology = Topology.from_csr(longs(*row_ptr), ints(*columns), (4, 6))
    assert topology.nnz == len(columns)


def test_structures_hold_for_compressed_rows_too():
    with pytest.raises(SparsityError, match="cut through units of PairsInRows"):
        Topology.from_csr(longs(0, 1, 2), ints(0, 1), (2, 4), structure=PairsInRows())
    with pytest.raises(SparsityError, match="cut through units"):
        Topology.from_csr(longs(0, 1, 2), ints(1, 1), (2, 4), structure=Block(1, 2))
    with pytest.raises(SparsityError, match=r"ConstantFanIn|fan-in|even"):
        Topology.from_csr(longs(0, 2, 3), ints(0, 1, 2), (2, 4), structure=ConstantFanIn())
    with pytest.raises(SparsityError):
        Topology.from_csr(longs(0, 2, 4), ints(0, 1, 0, 1), (2, 8), structure=NM(2, 4))
    with pytest.raises(SparsityError, match="no elements"):
        Topology.from_csr(longs(0, 0), ints(), (1, 0))
    with pytest.raises(TypeError, match="structure"):
        Topology.from_csr(longs(0, 1), ints(0), (1, 2), structure="2:4")


@given(structured(fixed=False))
def test_units_are_contiguous(kind):
    """What is searched in must be: torch warns of a copy each time otherwise."""
    structure, shape = kind
    assert Topology.full(shape, structure=structure).compact().units.is_contiguous()


def test_rewire_is_the_same_on_both_forms():
    """Through the public function, on layers that are masked and truly sparse."""
    net = torch.nn.Sequential(torch.nn.Linear(12, 8))
    layers = regrow.sparsify_(copy.deepcopy(net), sparsity=0.5, seed=1)
    drawn = regrow.compress_(net, sparsity=0.5, seed=1)
    assert drawn["0.weight"] == layers["0.weight"].topology
    assert math.isclose(drawn["0.weight"].sparsity, 0.5)
