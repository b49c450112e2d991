"""Derived generators, and the topologies drawn from them."""

import hashlib
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import shapes, topologies
from structure_cases import CASES, PairsInRows

from regrow.errors import SparsityError
from regrow.topology import (
    NM,
    ChannelGroups,
    ConstantFanIn,
    derived_generator,
    random_topology,
)

SMALLEST_LIKELIHOOD = 1e-6
"""Draws less likely than this fail a test; seeds are fixed, so a failure repeats."""


def chi_square_bound(n_cells):
    """The value that chi square exceeds with ``SMALLEST_LIKELIHOOD`` (Wilson and Hilferty)."""
    freedom, z = n_cells - 1, 4.7534
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + z * spread**0.5) ** 3


def chi_square(counts):
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 for count in counts) / expected


def draws(*arguments, n=5):
    return torch.rand(n, generator=derived_generator(*arguments)).tolist()


def test_same_arguments_give_the_same_draws():
    assert draws(3, 100, "fc.weight") == draws(3, 100, "fc.weight")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, 1), (0, "1")),
        ((0, "a", "bc"), (0, "ab", "c")),
        ((0, "a", "b"), (0, "a, b")),
        ((0, "a', 'b"), (0, "a", "b")),
        ((0, 1, 2), (0, 12)),
        ((0, 12), (1, 2)),
        ((0,), (0, 0)),
        ((0, ""), (0,)),
        ((0, 1, 2), (0, 2, 1)),
        ((1,), (-1,)),
        ((0,), (2**63,)),
        ((0,), (2**64,)),
    ],
)
def test_other_arguments_give_other_draws(one, other):
    assert draws(*one) != draws(*other)


def test_seed_is_the_hash_that_runs_were_made_with():
    """Part of every published result: it must not change between releases."""
    digest = hashlib.blake2b(b"(7, 100, 'fc.weight')", digest_size=8).digest()
    seed = int.from_bytes(digest, "little") >> 1
    assert derived_generator(7, 100, "fc.weight").initial_seed() == seed
    assert seed == 1638132996345462272
    assert derived_generator(7, 100, "fc.weight").device.type == "cpu"


def test_global_randomness_is_neither_read_nor_moved():
    torch.manual_seed(1)
    first = draws(0, "a")
    after = torch.rand(1)
    torch.manual_seed(2)
    assert draws(0, "a") == first
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)


@pytest.mark.parametrize("along", ["seed", "step", "name"])
def test_neighbouring_arguments_give_independent_draws(along):
    arguments = {
        "seed": lambda i: (i, 0, "fc"),
        "step": lambda i: (0, i, "fc"),
        "name": lambda i: (0, 0, f"layers.{i}"),
    }[along]
    values = torch.tensor([draws(*arguments(i), n=2) for i in range(2000)], dtype=torch.float64)
    cells = (values[:, 0] * 20).long().bincount(minlength=20).tolist()
    assert chi_square(cells) < chi_square_bound(20)
    # Correlations have a standard deviation of 1 / sqrt(n); between draws and between neighbours.
    first, second = values[:, 0], values[:, 1]
    for a, b in ((first, second), (first[1:], first[:-1])):
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 5 / math.sqrt(2000)


@pytest.mark.parametrize("seed", [True, 1.0, "0", None])
def test_seeds_that_are_no_integers(seed):
    with pytest.raises(TypeError, match="seed must be an integer"):
        derived_generator(seed)


@pytest.mark.parametrize("part", [True, 1.0, None, (1,)])
def test_parts_that_are_neither_integers_nor_strings(part):
    with pytest.raises(TypeError, match="parts must be"):
        derived_generator(0, part)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(shapes, st.data())
def test_random_topologies_have_exactly_the_count(shape, data):
    count = data.draw(st.integers(0, math.prod(shape)))
    topology = random_topology(shape, count, generator=generator())
    assert topology.nnz == topology.indices.numel() == count
    assert topology.shape == shape


@given(topologies(), st.integers(0, 99))
def test_random_topologies_have_exactly_the_count_of_each_group(like, seed):
    """Of every structure, within what is allowed."""
    structure, shape, allowed = like.structure, like.shape, like.allowed
    counts = like.counts()
    kind = {"structure": structure, "allowed": allowed}
    topology = random_topology(shape, counts, generator=generator(seed), **kind)
    groups = structure.group_of(topology.units, shape).tolist()
    assert [groups.count(g) for g in range(structure.n_groups(shape))] == counts.tolist()
    assert topology.nnz == like.nnz == int(topology.mask.sum())
    assert topology.allowed is allowed
    if allowed is not None:
        assert not bool((topology.active & ~allowed).any())


@given(topologies(empty_groups=False), st.integers(0, 99))
def test_a_count_over_all_groups_is_spread_in_proportion_to_their_room(like, seed):
    structure, shape = like.structure, like.shape
    kind = {"structure": structure, "allowed": like.allowed}
    topology = random_topology(shape, like.n_active, generator=generator(seed), **kind)
    assert topology.n_active == like.n_active
    room, counts = like.room.tolist(), topology.counts().tolist()
    if structure.even_groups:
        assert counts == like.counts().tolist()
    else:
        for most, count in zip(room, counts, strict=True):
            assert abs(count - like.n_active * most / max(sum(room), 1)) < 1 + 1e-9


@pytest.mark.parametrize(("name", "shape"), [(n, case.fits[0]) for n, case in CASES.items()])
def test_every_allowed_unit_of_a_group_is_as_likely(name, shape):
    structure, n = CASES[name].structure, 400
    n_units, n_groups = structure.n_units(shape), structure.n_groups(shape)
    size = n_units // n_groups
    group_of = structure.group_of(torch.arange(n_units), shape)
    fixed = structure.fixed_sparsity
    # All but the first unit of each group, where the structure leaves room for that.
    allowed = torch.ones(n_units, dtype=torch.bool)
    if fixed != 0.0:
        for g in range(n_groups):
            allowed[(group_of == g).nonzero()[0]] = False
    each = max(size // 3, 1) if fixed is None else round(size * (1 - fixed))
    counts, stream, hits = torch.full((n_groups,), each), generator(11), torch.zeros(n_units)
    for _ in range(n):
        kind = {"structure": structure, "allowed": allowed}
        hits += random_topology(shape, counts, generator=stream, **kind).active
    assert not hits[~allowed].any()
    chance = each / (size - (fixed != 0.0))
    # Five standard deviations of that many draws, or certainty.
    bound = 5 * (n * chance * (1 - chance)) ** 0.5 + 1e-6
    assert bool(((hits[allowed] - n * chance).abs() <= bound).all()), hits


def test_every_topology_is_as_likely():
    stream = generator(5)
    subsets = dict.fromkeys(itertools.combinations(range(6), 2), 0)
    for _ in range(3000):
        subsets[tuple(random_topology((2, 3), 2, generator=stream).units.tolist())] += 1
    assert chi_square(list(subsets.values())) < chi_square_bound(15)


def test_every_place_is_as_likely_in_a_large_weight():
    n, stream = 1 << 20, generator(3)
    cells = torch.zeros(64, dtype=torch.int64)
    for _ in range(4):
        units = random_topology((n,), n // 2, generator=stream).units
        cells += torch.bincount(units // (n // 64), minlength=64)
    assert chi_square(cells.tolist()) < chi_square_bound(64)


def test_draws_depend_on_the_generator_alone():
    torch.manual_seed(1)
    one = random_topology((20, 20), 100, generator=generator(9))
    torch.manual_seed(2)
    assert random_topology((20, 20), 100, generator=generator(9)) == one
    assert random_topology((20, 20), 100, generator=generator(10)) != one


@pytest.mark.parametrize("count", [-1, 7])
def test_more_than_there_is(count):
    with pytest.raises(SparsityError, match=f"{count} of 6"):
        random_topology((2, 3), count, generator=generator())


def test_more_than_a_group_has():
    with pytest.raises(SparsityError, match="scores of group"):
        random_topology(
            (2, 4), torch.tensor([1, 3]), generator=generator(), structure=PairsInRows()
        )


def test_even_groups_take_no_count_that_splits_unevenly():
    kind = {"generator": generator(), "structure": ConstantFanIn()}
    assert random_topology((2, 3), 4, **kind).counts().tolist() == [2, 2]
    with pytest.raises(SparsityError, match="3 cannot be split over 2 groups"):
        random_topology((2, 3), 3, **kind)
    with pytest.raises(SparsityError, match=r"got groups of \[1, 2\]"):
        random_topology((2, 3), torch.tensor([1, 2]), **kind)
    with pytest.raises(SparsityError, match="2 active units in every group"):
        random_topology((1, 4), 1, generator=generator(), structure=NM(2, 4))


def test_not_more_than_is_allowed():
    allowed = torch.tensor([True, True, False, False, True, False])
    kind = {"generator": generator(), "allowed": allowed}
    assert random_topology((2, 3), 3, **kind).units.tolist() == [0, 1, 4]
    with pytest.raises(SparsityError, match="4 of 3"):
        random_topology((2, 3), 4, **kind)
    with pytest.raises(SparsityError, match=r"2 cannot be split|2 of the 1 scores of group 1"):
        random_topology((2, 3), torch.tensor([2, 2]), structure=ConstantFanIn(), **kind)


def test_a_count_over_all_groups_follows_what_is_allowed():
    """Room for four and for one: of four units 3.2 and 0.8."""
    allowed = torch.tensor([True] * 4 + [False, True, False, False])
    structure = ChannelGroups(2)
    topology = random_topology(
        (2, 4), 4, generator=generator(), structure=structure, allowed=allowed
    )
    assert topology.counts().tolist() == [3, 1]
