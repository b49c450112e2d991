"""The updater's own state: what it holds, and what it refuses to load."""

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_cases import METHODS, OPTIMIZERS, batches, masks_of, same, snapshot, step, tiny_net
from torch import Tensor, nn

import regrow
from regrow.errors import SparsityError


def trained(n: int = 10, *, method: str = "set", seed: int = 5) -> tuple[Any, Any, Any]:
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = METHODS[method](net, optimizer, seed=seed)
    for batch in batches(n):
        step(net, optimizer, batch)
    return net, optimizer, updater


TARGET = trained(2, seed=8)
STATE = trained()[2].state_dict()


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from leaves(one)
    else:
        yield value


def test_plain_types_only() -> None:
    kinds = {type(leaf) for leaf in leaves(STATE)}
    assert kinds <= {Tensor, int, float, str}
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    assert loaded.keys() == STATE.keys()


def test_small_on_disk() -> None:
    """Two bits a weight, the topology and what was ever active, and a byte a connection."""
    n_bytes = sum(leaf.nbytes for leaf in leaves(STATE) if torch.is_tensor(leaf))
    n_weights = 216 + 2048 + 256 + 64
    assert n_bytes < 2 * n_weights / 8 + 0.3 * n_weights + 1000


def test_a_state_is_a_snapshot() -> None:
    """It does not change while training goes on."""
    net, optimizer, updater = trained(5)
    state = updater.state_dict()
    kept = copy.deepcopy(state)
    for batch in batches(8, seed=3):
        step(net, optimizer, batch)
    assert [*map(repr, leaves(state))] == [*map(repr, leaves(kept))]
    updater.load_state_dict(state)
    for batch in batches(8, seed=3):
        step(net, optimizer, batch)
    assert [*map(repr, leaves(state))] == [*map(repr, leaves(kept))]


def test_going_back_and_again_gives_the_same() -> None:
    net, optimizer, updater = trained(6)
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict(), updater.state_dict()))
    ends = []
    for _ in range(2):
        for batch in batches(9, seed=3):
            step(net, optimizer, batch)
        ends.append((snapshot(net, optimizer), masks_of(updater), updater.history, updater.steps))
        net.load_state_dict(saved[0])
        optimizer.load_state_dict(copy.deepcopy(saved[1]))
        updater.load_state_dict(saved[2])
    assert same(ends[0][0], ends[1][0])
    assert all(torch.equal(ends[0][1][n], ends[1][1][n]) for n in ends[0][1])
    assert ends[0][2:] == ends[1][2:]


def test_a_load_in_mid_step_forgets_that_step() -> None:
    """Loaded between backward and step, or with one of two optimizers stepped."""
    net = tiny_net()
    both = [
        torch.optim.SGD([p for p in net.parameters() if p.dim() == 2], lr=0.1),
        torch.optim.SGD([p for p in net.parameters() if p.dim() != 2], lr=0.1),
    ]
    updater = regrow.rigl(net, both, sparsity=0.7, n_steps=20, interval=2)
    state = updater.state_dict()
    data = batches(3)
    net(data[0][0]).sum().backward()
    both[0].step()
    updater.load_state_dict(state)
    for one in both:
        one.zero_grad()
    step(net, both, data[1])
    assert updater.steps == 1


# -- refused ---------------------------------------------------------------------------------

PATHS: list[tuple[Any, ...]] = [
    *[(key,) for key in STATE],
    *[("layers", name) for name in STATE["layers"]],
    *[("layers", name, key) for name, layer in STATE["layers"].items() for key in layer],
]
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(allow_nan=True),
    st.text(max_size=3),
    st.just([]),
    st.just({}),
    st.just(object()),
    st.integers(max_value=-2),
    st.just(torch.zeros(3)),
    st.just(torch.zeros(0, dtype=torch.uint8)),
    st.just(torch.zeros(2, 13, dtype=torch.int32)),
    st.lists(st.integers(), min_size=5, max_size=6),
    st.just([1.5, 2.0, 3.0, 4.0]),
)


def parent_of(state: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        state = state[key]
    return state


def assert_refused(state: Any) -> None:
    net, optimizer, updater = TARGET
    before = [*snapshot(net, optimizer), *masks_of(updater).values()]
    told = (updater.steps, updater.history, updater.exploration, updater.report())
    with pytest.raises(SparsityError):
        updater.load_state_dict(state)
    assert same(before, [*snapshot(net, optimizer), *masks_of(updater).values()])
    assert told == (updater.steps, updater.history, updater.exploration, updater.report())


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_a_missing_entry_is_refused(path: tuple[Any, ...]) -> None:
    state = copy.deepcopy(STATE)
    del parent_of(state, path)[path[-1]]
    assert_refused(state)


@settings(max_examples=200)
@given(st.sampled_from(PATHS), JUNK)
def test_a_replaced_entry_is_refused(path: tuple[Any, ...], junk: Any) -> None:
    if path == ("seed",) and isinstance(junk, int) and not isinstance(junk, bool):
        return  # any integer is a seed
    state = copy.deepcopy(STATE)
    parent_of(state, path)[path[-1]] = junk
    assert_refused(state)


@settings(max_examples=60)
@given(
    st.sampled_from(["active", "ever_active"]),
    st.sampled_from(list(STATE["layers"])),
    st.integers(0, 10**6),
    st.sampled_from(["flip", "cut", "lengthen", "retype"]),
)
def test_damaged_bits_are_refused(key: str, name: str, at: int, damage: str) -> None:
    state = copy.deepcopy(STATE)
    layer = state["layers"][name]
    bits = layer[key]
    if damage == "flip":
        # One connection more or less than was counted, or one active that never was.
        flags = regrow.topology.unpack_bits(bits, TARGET[2].topologies[name].n_units)
        active = regrow.topology.unpack_bits(layer["active"], flags.numel())
        places = active.nonzero().squeeze(1)  # an `ever_active` that lacks an active unit
        where = int(places[at % len(places)]) if key == "ever_active" else at % flags.numel()
        flags[where] = ~flags[where]
        layer[key] = regrow.topology.pack_bits(flags)
    else:
        layer[key] = {
            "cut": bits[:-1],
            "lengthen": torch.cat([bits, bits[:1]]),
            "retype": bits.to(torch.int16),
        }[damage]
    assert_refused(state)


@pytest.mark.parametrize("state", [None, 3, "state", [], {}, torch.zeros(2)])
def test_no_state_at_all(state: Any) -> None:
    assert_refused(state)


def test_the_model_s_own_state_is_not_the_updater_s() -> None:
    assert_refused(TARGET[0].state_dict())
    assert_refused(TARGET[1].state_dict())


def test_a_state_of_another_model_says_what_differs() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    other = regrow.static(net, torch.optim.SGD(net.parameters(), lr=0.1), sparsity=0.5)
    with pytest.raises(SparsityError, match=r"missing \['conv\.weight'.*unknown \['0\.weight'"):
        TARGET[2].load_state_dict(other.state_dict())
    assert_refused(other.state_dict())

    shapes = tiny_net()
    shapes.mid = nn.Linear(16, 16)
    shapes.fc = nn.Linear(128, 16)
    shapes.head = nn.Linear(16, 5)
    wider = regrow.static(shapes, torch.optim.SGD(shapes.parameters(), lr=0.1), sparsity=0.5)
    with pytest.raises(SparsityError, match=r"'head\.weight' is of shape \(5, 16\).*\(4, 16\)"):
        TARGET[2].load_state_dict(wider.state_dict())
    assert_refused(wider.state_dict())


def test_layers_in_another_order_are_refused() -> None:
    state = copy.deepcopy(STATE)
    state["layers"] = dict(reversed(state["layers"].items()))
    with pytest.raises(SparsityError, match="in another order"):
        TARGET[2].load_state_dict(state)
    assert_refused(state)


def test_another_format_is_refused() -> None:
    state = {**STATE, "format": 99}
    with pytest.raises(SparsityError, match="format 99"):
        TARGET[2].load_state_dict(state)
    assert_refused(state)


def test_numbers_that_contradict_each_other_are_refused() -> None:
    """A history of rewirings behind the step that was reached, or of negative counts."""
    ahead = copy.deepcopy(STATE)
    ahead["steps"] = 3  # the history says that steps 4 and 8 rewired
    assert_refused(ahead)
    negative = copy.deepcopy(STATE)
    negative["history"][0, 1] = -1
    assert_refused(negative)
    counts = copy.deepcopy(STATE)
    counts["initial_nnz"] = [-1, 5, 5, 5]
    assert_refused(counts)
