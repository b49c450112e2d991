"""Updater states mutated at random: refused with nothing changed, or loaded and sound."""

import copy
import dataclasses
import io

import pytest
import torch
from damage import places
from hypothesis import given, settings
from hypothesis import strategies as st
from state_cases import JUNK, TENSORS, UPDATERS, at, check, mutate, target

from regrow.errors import SparsityError
from regrow.topology import pack_bits, unpack_bits
from regrow.training import Rewiring

# A state may hold an empty layer, which the updater rightly warns of.
pytestmark = pytest.mark.filterwarnings("ignore:layer collapse")


@settings(max_examples=250)
@given(st.data(), st.sampled_from(list(UPDATERS)), st.integers(1, 3))
def test_a_mutated_state_is_refused_or_sound(data, kind, n_changes):
    state = copy.deepcopy(target(kind).valid)
    for _ in range(n_changes):
        try:
            mutate(data.draw, state)
        except (RuntimeError, TypeError, IndexError, ValueError, AttributeError, KeyError):
            return  # torch or Python cannot make such a thing
    check(kind, state)


@pytest.mark.parametrize("kind", UPDATERS)
def test_a_valid_state_is_loaded(kind):
    """Else the tests here would show nothing."""
    assert check(kind, copy.deepcopy(target(kind).valid))
    buffer = io.BytesIO()
    torch.save(target(kind).valid, buffer)
    buffer.seek(0)
    assert check(kind, torch.load(buffer, weights_only=True))


@pytest.mark.parametrize("junk", JUNK)
def test_junk_in_every_place_is_refused(junk):
    kind = "parts"
    valid = target(kind).valid
    check(kind, JUNK[junk]())
    for path in places(valid):
        state = copy.deepcopy(valid)
        at(state, path[:-1])[path[-1]] = JUNK[junk]()
        if path == ("layers",) or path[0] in ("format", "layers", "history", "initial_nnz"):
            assert not check(kind, state), path
        else:
            check(kind, state)


@pytest.mark.parametrize("change", TENSORS)
@pytest.mark.parametrize("kind", ["allowed", "2:4"])
def test_every_tensor_changed_in_every_way(kind, change):
    for path in places(target(kind).valid):
        state = copy.deepcopy(target(kind).valid)
        parent = at(state, path[:-1])
        if isinstance(parent[path[-1]], torch.Tensor):
            try:
                parent[path[-1]] = TENSORS[change](parent[path[-1]])
            except (RuntimeError, TypeError, IndexError, ValueError):
                continue  # torch cannot make such a thing
            check(kind, state)


# -- lies that fit together ----------------------------------------------------------------------


def column(field, layer):
    """Where the history has a number of one of the three layers."""
    names = [one.name for one in dataclasses.fields(Rewiring)]
    return 0 if field == "step" else 2 + 3 * (names.index(field) - 1) + layer


def with_active(state, name, change):
    """A state whose active units of a layer are others since its start, with counts to match."""
    layer = state["layers"][name]
    index = list(state["layers"]).index(name)
    active = change(unpack_bits(layer["active"], 8 * layer["active"].numel()))
    n = int(active.sum())
    layer["active"] = layer["ever_active"] = pack_bits(active)
    layer["n_active"], layer["born"] = n, torch.zeros(n, dtype=torch.uint8)
    state["initial_nnz"][index] = n
    for field, value in {"n_dropped": 0, "n_grown": 0, "n_new": 0, "nnz": n}.items():
        state["history"][:, column(field, index)] = value
    return state


def moved(active):
    """The first active unit goes, the last inactive one comes."""
    active = active.clone()
    first, last = active.nonzero()[0], (~active).nonzero()[-1]
    active[first], active[last] = False, True
    return active


def fewer(active):
    return active.clone().index_fill_(0, active.nonzero()[0], value=False)


@pytest.mark.parametrize("change", [moved, fewer, torch.zeros_like, torch.ones_like])
def test_groups_that_the_structure_rules_out_are_refused(change):
    """Every number in the state agrees with every other; only the structure objects."""
    for kind, name in (("2:4", "fc.weight"), ("constant fan-in", "fc.weight")):
        state = with_active(copy.deepcopy(target(kind).valid), name, change)
        whole = kind == "constant fan-in" and change in (torch.zeros_like, torch.ones_like)
        assert check(kind, state) == whole, "only whole groups are even"
    assert check("plain", with_active(copy.deepcopy(target("plain").valid), "fc.weight", change))


def test_units_that_are_not_allowed_are_refused():
    def outside(active):
        active = active.clone()
        active[active.nonzero()[0]] = False
        active[3] = True  # of every four units the last is not allowed
        return active

    state = with_active(copy.deepcopy(target("allowed").valid), "conv.weight", outside)
    with pytest.raises(SparsityError, match="not allowed"):
        target("allowed").updater.load_state_dict(state)
    check("allowed", state)
    without = copy.deepcopy(target("allowed").valid)
    del without["layers"]["conv.weight"]["allowed"]
    assert not check("allowed", without), "a layer would be confined no more"
    more = copy.deepcopy(target("plain").valid)
    more["layers"]["fc.weight"]["allowed"] = pack_bits(torch.ones(128, dtype=torch.bool))
    assert not check("plain", more), "a layer would be confined from now on"
    narrow = copy.deepcopy(target("allowed").valid)
    layer = narrow["layers"]["conv.weight"]
    layer["allowed"] = layer["active"].clone()
    layer["ever_active"] = layer["active"].clone()
    assert check("allowed", narrow), "with nowhere to grow, training still goes on"


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("n_dropped", 1), ("n_dropped", -1), ("n_grown", 10**6), ("n_grown", 1), ("n_new", 100),
        ("n_new", -100), ("nnz", 3), ("nnz", -2), ("took_part", 1), ("took_part", -1),
        ("step", 100), ("step", -100),
    ],
)  # fmt: skip
def test_a_history_that_contradicts_itself_is_refused(field, change):
    for row in range(len(target("plain").valid["history"])):
        state = copy.deepcopy(target("plain").valid)
        state["history"][row, column(field, 0)] += change
        assert not check("plain", state)


def test_states_of_other_updaters_are_refused():
    """Of the same model: another structure, another number of parts, another confinement."""
    for kind in UPDATERS:
        for other in UPDATERS:
            state = copy.deepcopy(target(other).valid)
            if kind == other:
                continue
            if not check(kind, state):
                continue
            assert {kind, other} <= {"plain", "gradual"} or other == "allowed", (kind, other)
