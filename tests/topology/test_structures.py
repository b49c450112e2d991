"""Every structure against its definition by multi-indices."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from structure_cases import (
    CASES,
    FITS,
    REFUSES,
    TRANSPOSED_FITS,
    PairsInRows,
    sets_of,
    to_convolution,
)

import regrow.topology.structures
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
    Transposed,
    Unstructured,
    check_structure,
    random_topology,
    spread_over_groups,
    structure_tag,
    unit_size,
)


def longs(*values):
    return torch.tensor(values, dtype=torch.int64)


def test_every_structure_of_the_library_is_in_the_table():
    named = {getattr(regrow.topology.structures, n) for n in regrow.topology.structures.__all__}
    assert named - {type(case.structure) for case in CASES.values()} == {Transposed}


@pytest.mark.parametrize(("name", "shape"), FITS)
def test_units_and_groups_are_those_of_the_definition(name, shape):
    structure = CASES[name].structure
    check_structure(structure, shape)
    units, groups = sets_of(CASES[name], shape)
    assert structure.n_units(shape) == len(units)
    assert structure.n_groups(shape) == len(groups)
    assert unit_size(structure, shape) == len(units[0])
    numbers = torch.arange(len(units))
    # Numbered as they are met in row-major order: that is what breaks ties.
    assert structure.elements_of(numbers, shape).tolist() == units
    flat = torch.arange(math.prod(shape))
    group_of = structure.group_of(structure.unit_of(flat, shape), shape)
    assert [flat[group_of == g].tolist() for g in range(len(groups))] == groups


@pytest.mark.parametrize(("name", "shape"), FITS)
def test_any_units_may_be_asked_for(name, shape):
    """In any order, none at all, and from any device's tensors of int64."""
    structure = CASES[name].structure
    n_units = structure.n_units(shape)
    every = structure.elements_of(torch.arange(n_units), shape)
    mixed = torch.randperm(n_units, generator=torch.Generator().manual_seed(0))[: n_units // 2]
    assert torch.equal(structure.elements_of(mixed, shape), every[mixed])
    none = torch.empty(0, dtype=torch.int64)
    assert structure.elements_of(none, shape).shape == (0, unit_size(structure, shape))
    assert structure.unit_of(none, shape).shape == structure.group_of(none, shape).shape == (0,)


@pytest.mark.parametrize(("name", "shape"), REFUSES)
def test_shapes_that_have_no_such_units(name, shape):
    structure = CASES[name].structure
    for refused in (
        lambda: structure.check(shape),
        lambda: check_structure(structure, shape),
        lambda: Topology(longs(), shape, structure=structure),
        lambda: Topology.from_mask(torch.zeros(shape, dtype=torch.bool), structure=structure),
        lambda: random_topology(shape, 0, generator=torch.Generator(), structure=structure),
    ):
        with pytest.raises(SparsityError) as caught:
            refused()
        if name != "own-pairs":
            assert str(shape) in str(caught.value), "the message names the shape"


@pytest.mark.parametrize("name", CASES)
def test_structures_are_values(name):
    structure = CASES[name].structure
    again = dataclasses.replace(structure)
    assert again == structure
    assert hash(again) == hash(structure)
    assert all(structure != case.structure for n, case in CASES.items() if n != name)
    if name != "own-pairs":
        assert eval(repr(structure), vars(regrow.topology)) == structure
    with pytest.raises(dataclasses.FrozenInstanceError):
        structure.anything = 1


def test_what_structures_fix():
    even = {name for name, case in CASES.items() if case.structure.even_groups}
    assert even == {"nm-2:4", "nm-1:2", "nm-4:4", "fan-in", "kernel-fan-in"}
    fixed = {n: c.structure.fixed_sparsity for n, c in CASES.items() if c.structure.fixed_sparsity}
    assert fixed == {"nm-2:4": 0.5, "nm-1:2": 0.5}
    assert NM(4, 4).fixed_sparsity == 0.0
    for case in CASES.values():
        transposed = Transposed(case.structure, 2)
        assert transposed.even_groups == case.structure.even_groups
        assert transposed.fixed_sparsity == case.structure.fixed_sparsity


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NM(0, 4), "n must be at least 1, got 0"),
        (lambda: NM(5, 4), "n must be at most m=4, got 5"),
        (lambda: NM(1, 0), "m must be at least 1"),
        (lambda: Block(0, 1), "r must be at least 1"),
        (lambda: Block(1, -2), "c must be at least 1"),
        (lambda: ChannelGroups(0), "n must be at least 1"),
        (lambda: Transposed(Kernel(), 0), "groups must be at least 1"),
    ],
)
def test_numbers_that_make_no_structure(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [NM, Block])
def test_numbers_must_be_integers(make):
    with pytest.raises(TypeError, match="integer"):
        make(2.0, 4)


# -- transposed convolutions -----------------------------------------------------------------


@pytest.mark.parametrize(("name", "groups", "shape"), TRANSPOSED_FITS)
def test_transposed_is_the_structure_of_the_weight_in_convolution_layout(name, groups, shape):
    structure, flat = Transposed(CASES[name].structure, groups), torch.arange(math.prod(shape))
    check_structure(structure, shape)
    # Row-major positions, moved to where a convolution would hold the same connection.
    places = to_convolution(flat.view(shape), groups)
    usual, plain = tuple(places.shape), CASES[name].structure
    assert structure.n_units(shape) == plain.n_units(usual)
    assert structure.n_groups(shape) == plain.n_groups(usual)
    by_place = torch.empty_like(flat)
    by_place[places.reshape(-1)] = plain.unit_of(flat, usual)
    assert torch.equal(structure.unit_of(flat, shape), by_place)
    units = torch.arange(structure.n_units(shape))
    assert torch.equal(structure.group_of(units, shape), plain.group_of(units, usual))
    elements = places.reshape(-1)[plain.elements_of(units, usual)].sort(dim=1).values
    assert torch.equal(structure.elements_of(units, shape), elements)


def test_groups_of_a_transposed_convolution_divide_its_inputs():
    with pytest.raises(SparsityError, match="groups=3 does not divide the 8 inputs"):
        Transposed(Kernel(), 3).check((8, 2, 3, 3))


def test_the_layout_is_that_of_torch():
    """An output channel of a grouped transposed convolution: zero its weights, and it is silent."""
    layer = torch.nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False)
    shape = tuple(layer.weight.shape)
    assert shape == (4, 3, 2, 2)
    x = torch.randn(1, 4, 5, 5)
    for channel in range(6):
        elements = Transposed(OutChannel(), 2).elements_of(longs(channel), shape)
        with torch.no_grad():
            layer.weight.fill_(1.0).view(-1)[elements.reshape(-1)] = 0.0
        silent = (layer(x).detach().abs().amax(dim=(0, 2, 3)) == 0).nonzero().squeeze(1)
        assert silent.tolist() == [channel]


# -- check_structure -------------------------------------------------------------------------


class Overlapping(PairsInRows):
    def elements_of(self, unit, shape):
        return torch.stack([unit, unit + 1], dim=1)


class Short(PairsInRows):
    def elements_of(self, unit, shape):
        return (2 * unit).unsqueeze(1)


class Contradicting(PairsInRows):
    def unit_of(self, flat, shape):
        return flat % self.n_units(shape)


class EmptyGroup(PairsInRows):
    def n_groups(self, shape):
        return shape[0] + 1


class NoneAsked(PairsInRows):
    def elements_of(self, unit, shape):
        return super().elements_of(unit, shape).reshape(unit.numel(), -1)


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (Overlapping, SparsityError, "do not hold each of 48 elements once"),
        (Short, SparsityError, r"elements_of gives shape \(24, 1\) where \(24, 2\) is wanted"),
        (Contradicting, SparsityError, "unit_of of .* contradicts its elements_of"),
        (EmptyGroup, SparsityError, "must use each of the 7 groups"),
        (NoneAsked, RuntimeError, "0 elements"),
    ],
)
def test_what_is_no_structure_is_found(kind, error, message):
    check_structure(PairsInRows(), (6, 8))
    with pytest.raises(error, match=message):
        check_structure(kind(), (6, 8))


# -- counts of groups ------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.data())
def test_spreading_is_within_one_unit_of_proportion(room, data):
    total = data.draw(st.integers(0, sum(room)))
    counts = spread_over_groups(ChannelGroups(len(room)), total, longs(*room)).tolist()
    assert sum(counts) == total
    for count, most in zip(counts, room, strict=True):
        share = total * most / max(sum(room), 1)
        assert math.floor(share + 1e-9) <= count <= min(math.ceil(share - 1e-9), most)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 80))
def test_even_groups_get_as_many_each_or_an_error(room, total):
    n, least = len(room), min(room)
    if total % n == 0 and total // n <= least:
        counts = spread_over_groups(ConstantFanIn(), total, longs(*room))
        assert counts.tolist() == [total // n] * n
    else:
        with pytest.raises(SparsityError, match=f"{total} (cannot be split|units where)|place"):
            spread_over_groups(ConstantFanIn(), total, longs(*room))


@pytest.mark.parametrize("total", [-1, 7])
def test_more_than_there_is_room_for(total):
    with pytest.raises(SparsityError, match=f"place {total} units where there is room for 6"):
        spread_over_groups(Unstructured(), total, longs(2, 4))


@pytest.mark.parametrize(
    ("structure", "units", "shape", "message"),
    [
        (NM(2, 4), (0, 1, 2), (1, 4), r"2 active units in every group, got groups of \[3\]"),
        (NM(2, 4), (0, 1, 4), (2, 4), r"got groups of \[1, 2\]"),
        (NM(2, 4), (), (2, 4), r"got groups of \[0\]"),
        (NM(2, 4), (0, 1, 2, 3), (2, 4), r"got groups of \[0, 4\]"),
        (ConstantFanIn(), (0, 3, 4), (2, 3), r"as in any other, got groups of \[1, 2\]"),
        (Kernel(per_output=True), (0, 2, 3), (2, 2, 3), r"got groups of \[1, 2\]"),
        (Transposed(ConstantFanIn()), (0, 1, 2), (2, 2), r"got groups of \[1, 2\]"),
    ],
)
def test_counts_that_a_structure_rules_out(structure, units, shape, message):
    with pytest.raises(SparsityError, match=message):
        Topology(longs(*units), shape, structure=structure)
    active = torch.zeros(structure.n_units(shape), dtype=torch.bool)
    active[list(units)] = True
    with pytest.raises(SparsityError, match=message):
        Topology.from_active(active, shape, structure=structure)


def test_groups_without_any_unit_may_stand_beside_even_ones():
    """Ablated neurons (SRigL): the others have the same fan-in."""
    topology = Topology(longs(0, 2, 7, 8), (3, 3), structure=ConstantFanIn())
    assert topology.counts().tolist() == [2, 0, 2]


def test_full_topologies():
    for name, shape in FITS:
        structure = CASES[name].structure
        if structure.fixed_sparsity:
            with pytest.raises(SparsityError, match="in every group"):
                Topology.full(shape, structure=structure)
        else:
            assert Topology.full(shape, structure=structure).sparsity == 0.0


def test_blocks_of_one_are_kernels_and_kernels_of_a_matrix_are_elements():
    shape = (4, 3, 2, 2)
    every = torch.arange(12)
    assert torch.equal(Block(1, 1).elements_of(every, shape), Kernel().elements_of(every, shape))
    flat = Unstructured().elements_of(every, (4, 3))
    assert torch.equal(Kernel().elements_of(every, (4, 3)), flat)
    columns = InChannel().elements_of(torch.arange(3), shape)
    assert torch.equal(columns, Block(4, 1).elements_of(torch.arange(3), shape))
    rows = OutChannel().elements_of(torch.arange(4), shape)
    assert torch.equal(rows, Block(1, 3).elements_of(torch.arange(4), shape))


def test_a_structure_compares_by_value_and_its_tag_leaves_defaults_out():
    class Rows:
        """Six methods, no value."""

        even_groups, fixed_sparsity = False, None
        check = n_units = n_groups = unit_of = group_of = elements_of = staticmethod(lambda *a: 0)

    with pytest.raises(TypeError, match="frozen dataclass"):
        check_structure(Rows(), (2, 2))
    assert structure_tag(Kernel()) == "Kernel()"
    assert structure_tag(Transposed(NM(2, 4), 2)) == "Transposed(structure=NM(n=2, m=4), groups=2)"
