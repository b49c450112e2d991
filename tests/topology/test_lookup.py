"""Questions about some connections, against lists of all of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import topologies

from regrow.topology import (
    Topology,
    TopologyDelta,
    apply,
    are_all,
    are_among,
    derived_generator,
    locate,
    positions_at,
    positions_between,
    random_topology,
    unit_bounds,
    units_at,
)
from regrow.topology import _rows as rows_module

both_forms = topologies(with_allowed=False).flatmap(
    lambda one: st.sampled_from([one, one.compact()])
)


@pytest.fixture(autouse=True, scope="module")
def small_parts():
    """Many parts, of small topologies too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "SMALLEST", 2)
        patch.setattr(rows_module, "PARTS", 7)
        yield


def some_of(n, data, dtype=torch.int64):
    """Numbers below n in any order, with repeats."""
    drawn = data.draw(st.lists(st.integers(0, n - 1), max_size=12)) if n else []
    return torch.tensor(drawn, dtype=dtype)


@given(both_forms, st.data())
def test_where_connections_lie(topology, data):
    every = topology.mask.reshape(-1).nonzero().squeeze(1)
    asked = some_of(topology.n_elements, data)
    places, there = locate(topology, asked)
    assert (places.dtype, there.dtype) == (torch.int64, torch.bool)
    assert there.tolist() == [place in every.tolist() for place in asked.tolist()]
    assert torch.equal(every[places[there]], asked[there])
    assert bool(((places >= 0) & (places < max(topology.nnz, 1))).all())
    narrow = locate(topology, asked.sort().values.to(torch.int32))
    assert torch.equal(narrow[1], locate(topology, asked.sort().values)[1])


@given(both_forms, st.data())
def test_positions_and_units_by_place(topology, data):
    every = topology.mask.reshape(-1).nonzero().squeeze(1)
    places = some_of(topology.nnz, data)
    assert torch.equal(positions_at(topology, places), every[places])
    places = some_of(topology.n_active, data)
    units = topology.active.nonzero().squeeze(1)
    assert torch.equal(units_at(topology, places), units[places])
    asked = some_of(topology.n_units, data)
    assert torch.equal(topology.is_active(asked), topology.active[asked])


@given(both_forms, st.data())
def test_connections_in_a_range(topology, data):
    every = topology.mask.reshape(-1).nonzero().squeeze(1)
    low = data.draw(st.integers(0, topology.n_elements))
    high = data.draw(st.integers(low, topology.n_elements))
    first, found = positions_between(topology, low, high)
    wanted = every[(every >= low) & (every < high)]
    assert torch.equal(found, wanted)
    if wanted.numel():
        assert int(every[first]) == int(wanted[0])


@given(both_forms, st.data())
def test_all_of_them(topology, data):
    every = topology.mask.reshape(-1).nonzero().squeeze(1)
    assert are_all(topology, every)
    assert torch.equal(topology.indices, every)
    if topology.nnz:
        assert not are_all(topology, every[1:])
        other = every.clone()
        other[data.draw(st.integers(0, topology.nnz - 1))] += 1
        assert not are_all(topology, other)


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_a_decision_part_by_part(n_out, n_in, data):
    """As sets, whatever lies in which part, in either width of integer; nothing is written to."""
    n = n_out * n_in
    before = set(data.draw(st.lists(st.integers(0, n - 1), max_size=n)))
    dropped = {one for one in before if data.draw(st.booleans())}
    grown = {one for one in range(n) if one not in before - dropped and data.draw(st.booleans())}
    dtype = data.draw(st.sampled_from([torch.int32, torch.int64]))
    delta = TopologyDelta(
        torch.tensor(sorted(dropped), dtype=dtype), torch.tensor(sorted(grown), dtype=dtype)
    )
    topology = Topology(torch.tensor(sorted(before), dtype=torch.int64), (n_out, n_in)).compact()
    after = apply(topology, delta)
    assert after.indices.tolist() == sorted((before - dropped) | grown)
    assert after == Topology.from_csr(*after.csr, (n_out, n_in))
    assert topology.indices.tolist() == sorted(before)
    assert delta.grown.tolist() == sorted(grown)
    assert delta.dropped.tolist() == sorted(dropped)


def test_decisions_of_both_widths():
    topology = Topology(torch.tensor([0, 3]), (2, 2)).compact()
    delta = TopologyDelta(torch.tensor([0], dtype=torch.int32), torch.tensor([0, 1]))
    assert apply(topology, delta).indices.tolist() == [0, 1, 3]


def test_numbers_of_another_width():
    wide, narrow = torch.tensor([1, 5, 9]), torch.tensor([9, 2], dtype=torch.int32)
    assert are_among(wide, narrow).tolist() == [True, False]
    assert are_among(narrow.sort().values, wide).tolist() == [False, False, True]


def test_a_weight_beyond_int32():
    """Positions above 2**31, and decisions in int32 where all of them are below."""
    shape = (70_000, 70_000)
    generator = derived_generator(0)
    topology = random_topology(shape, 500, generator=generator, compact=True)
    every = topology.indices
    assert int(every[-1]) > 2**31
    assert bool(locate(topology, every)[1].all())
    assert not bool(locate(topology, every + 1)[1].any())
    first = every[:2].to(torch.int32)
    after = apply(topology, TopologyDelta(first[:1], first[1:] + 1))
    kept = every[1:].tolist()
    assert after.indices.tolist() == [kept[0], kept[0] + 1, *kept[1:]]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [(0, 10)]),
        ({"at_once": 4}, [(0, 4), (4, 8), (8, 10)]),
        ({"at_once": 5, "row": 3}, [(0, 3), (3, 6), (6, 9), (9, 10)]),
        ({"at_once": 2, "row": 3}, [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]),
    ],
)
def test_ranges_of_units(options, wanted):
    assert list(unit_bounds(10, **options)) == wanted
