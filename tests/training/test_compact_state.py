"""Truly sparse models saved and loaded: bit for bit, in any order, or not at all."""

import copy
import io
import itertools
from typing import Any

import pytest
import torch
from compact_cases import (
    METHODS,
    N_STEPS,
    SPARSITY,
    Run,
    batches,
    linear_net,
    loss_of,
    plain_step,
    start,
)
from state_cases import differences
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import regrow
from regrow.errors import SparsityError

DATA = batches(N_STEPS)
HALF = 8  # steps; behind two rewirings, and one step before the third
ORDERS = list(itertools.permutations(("model", "optimizer", "updater")))
OPTIMIZER = "adamw"


def fresh(method: str = "rigl", *, compact: bool = True, seed: int = 0, **options: Any) -> Run:
    return start(linear_net(seed), method, OPTIMIZER, compact=compact, **options)


def states_of(run: Run) -> dict[str, Any]:
    """All three, through a file that only holds plain data."""
    file = io.BytesIO()
    parts = {"model": run.net, "optimizer": run.optimizer, "updater": run.updater}
    torch.save({name: part.state_dict() for name, part in parts.items()}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def load(run: Run, states: dict[str, Any], order: Any = ORDERS[0]) -> None:
    parts = {"model": run.net, "optimizer": run.optimizer, "updater": run.updater}
    for name in order:
        parts[name].load_state_dict(states[name])


def end_of(run: Run) -> dict[str, Any]:
    return copy.deepcopy(states_of(run))


@pytest.fixture(scope="module")
def halves() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Method -> states half way, and at the end."""
    found = {}
    for method in METHODS:
        run = fresh(method).train(DATA[:HALF])
        half = states_of(run)
        found[method] = half, end_of(run.train(DATA[HALF:]))
    return found


@pytest.mark.parametrize("order", ORDERS, ids=["-".join(order) for order in ORDERS])
@pytest.mark.parametrize("method", METHODS)
def test_resume_is_bit_for_bit(halves: Any, method: str, order: Any) -> None:
    half, end = halves[method]
    run = fresh(method, seed=3)
    load(run, copy.deepcopy(half), order)
    assert run.updater.steps == HALF
    assert not differences(half, states_of(run))
    run.train(DATA[HALF:])
    assert not differences(end, end_of(run))


@pytest.mark.parametrize("order", ORDERS, ids=["-".join(order) for order in ORDERS])
def test_going_back_in_a_run_that_is_further_on(halves: Any, order: Any) -> None:
    """Counts differ: MEST's after its last rewiring are others than half way."""
    half, end = halves["mest"]
    run = fresh("mest").train(DATA)
    optimizer_of = run.optimizer
    parameters = [id(p) for p in run.net.parameters()]
    assert run.net[0].nnz != half["model"]["0.values"].numel()
    load(run, copy.deepcopy(half), order)
    assert [id(p) for p in run.net.parameters()] == parameters
    assert run.optimizer is optimizer_of
    run.train(DATA[HALF:])
    assert not differences(end, end_of(run))


def test_resume_between_backward_passes_of_due_steps() -> None:
    """Loading lets go of what was kept of the step under way."""
    run = fresh("rigl", interval=1)
    states = states_of(run)
    loss_of(run.net, DATA[3]).backward()
    load(run, states)
    run.train(DATA[:4])
    other = fresh("rigl", interval=1).train(DATA[:4])
    assert not differences(states_of(run), states_of(other))


def test_the_state_is_small() -> None:
    """Values and moments, and four bytes a connection and a row: nothing of the dense size."""
    net = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 200))
    regrow.compress_(net, sparsity=0.99)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    updater = regrow.static(net, optimizer, sparsity=0.99)
    n = updater.nnz
    rows = 300 + 200
    held = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    assert held <= 8 * n + 8 * rows + 100
    own = list(updater.state_dict()["layers"].values())
    assert all(t["digest"].numel() <= 16 for t in own)
    assert not any("active" in t for t in own)


def test_state_dicts_are_not_views_of_the_run() -> None:
    """What was saved stays what it was."""
    run = fresh("rigl")
    state = run.net.state_dict()
    topology = state["0._extra_state"].clone()
    run.train(DATA)
    assert torch.equal(state["0._extra_state"], topology)
    assert not torch.equal(run.net.state_dict()["0._extra_state"], topology)
    state["0._extra_state"].zero_()
    run.updater.plan()
    assert run.net[0].nnz == run.net[0].values.numel()
    loss_of(run.net, DATA[0])


# -- what is refused -----------------------------------------------------------------------------


def damage(key: str, how: Any) -> Any:
    def change(state: dict[str, Any]) -> None:
        state[key] = how(state[key])

    return change


def write(place: int, value: int) -> Any:
    def change(packed: torch.Tensor) -> torch.Tensor:
        packed = packed.clone()
        packed[place] = value
        return packed

    return change


PACKED, VALUES = "2._extra_state", "2.values"
DAMAGES = {
    "no topology": lambda state: state.pop(PACKED),
    "no values": lambda state: state.pop(VALUES),
    "cut": damage(PACKED, lambda t: t[:-1]),
    "longer": damage(PACKED, lambda t: torch.cat([t, t[-1:]])),
    "empty": damage(PACKED, lambda t: t[:0]),
    "head only": damage(PACKED, lambda t: t[:4]),
    "rows only": damage(PACKED, lambda t: t[:28]),
    "two dimensions": damage(PACKED, lambda t: t[None]),
    "int64": damage(PACKED, lambda t: t.long()),
    "float": damage(PACKED, lambda t: t.float()),
    "meta": damage(PACKED, lambda t: t.to("meta")),
    "sparse": damage(PACKED, lambda t: t.to_sparse()),
    "text": damage(PACKED, lambda t: "topology"),
    "none": damage(PACKED, lambda t: None),
    "a list": damage(PACKED, lambda t: t.tolist()),
    "another format": damage(PACKED, write(0, 2)),
    "another shape": damage(PACKED, write(2, 48)),
    "a count below zero": damage(PACKED, write(4, -1)),
    "a huge count": damage(PACKED, write(4, 2**31 - 1)),
    "a column out of range": damage(PACKED, write(-1, 48)),
    "a column below zero": damage(PACKED, write(-1, -1)),
    "columns repeat": damage(PACKED, lambda t: torch.cat([t[:28], 0 * t[28:]])),
    "fewer values": damage(VALUES, lambda t: t[:-1]),
    "values of two dimensions": damage(VALUES, lambda t: t[None]),
    "a scalar": damage(VALUES, lambda t: t.sum()),
    "values as a list": damage(VALUES, lambda t: t.tolist()),
    "values as text": damage(VALUES, lambda t: "values"),
    "values on meta": damage(VALUES, lambda t: t.to("meta")),
    "sparse values": damage(VALUES, lambda t: t.to_sparse()),
    "complex values": damage(VALUES, lambda t: t.to(torch.complex128)),
    "integers": damage(VALUES, lambda t: t.long()),
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_layers_are_refused_and_nothing_changes(name: str, strict: bool) -> None:
    """Also where the number of connections is another one."""
    run = fresh("rigl").train(DATA[:2])
    layer = run.net[2]
    other = linear_net(seed=2)
    regrow.compress_(other, sparsity=0.7)
    state = {key: value.clone() for key, value in other.state_dict().items()}
    DAMAGES[name](state)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(
        RuntimeError, match=r"Error\(s\) in loading state_dict.*\n.*2\.(_extra|val)"
    ):
        run.net.load_state_dict(state, strict=strict)
    assert not differences(before, layer.state_dict())
    loss_of(run.net, DATA[2]).backward()


def test_layers_of_another_kind_are_refused() -> None:
    ours = regrow.nn.SparseLinear(24, 12, sparsity=0.5, structure=regrow.NM(2, 4))
    before = copy.deepcopy(ours.state_dict())
    for other in (
        regrow.nn.SparseLinear(24, 12, sparsity=0.5),
        regrow.nn.SparseLinear(12, 24, sparsity=0.5),
    ):
        for strict in (True, False):
            with pytest.raises(RuntimeError, match="_extra_state"):
                ours.load_state_dict(other.state_dict(), strict=strict)
            assert not differences(before, ours.state_dict())
    with pytest.raises(RuntimeError, match=r'Missing.*"values"'):
        ours.load_state_dict(nn.Linear(24, 12).state_dict())
    assert torch.equal(before["values"], ours.values)


def test_masked_and_truly_sparse_states_do_not_mix() -> None:
    masked, compact = fresh(compact=False).train(DATA[:4]), fresh().train(DATA[:4])
    for one, other, message in (
        (masked, compact, "is masked here and was truly sparse when it was saved"),
        (compact, masked, "is truly sparse here and was masked when it was saved"),
    ):
        before = copy.deepcopy(one.updater.state_dict())
        with pytest.raises(SparsityError, match=message):
            one.updater.load_state_dict(other.updater.state_dict())
        assert not differences(before, one.updater.state_dict())
        with pytest.raises(RuntimeError, match="Missing key"):
            one.net.load_state_dict(other.net.state_dict())


@pytest.mark.parametrize("forgotten", ["model", "updater"])
@pytest.mark.parametrize("method", ["rigl", "mest", "granet"])
def test_half_a_checkpoint_is_noticed_at_the_next_step(
    halves: Any, method: str, forgotten: str
) -> None:
    """Also where the number of connections happens to be the same."""
    half, _ = halves[method]
    run = fresh(method).train(DATA[:1])
    load(run, half, [name for name in ORDERS[0] if name != forgotten])
    loss_of(run.net, DATA[2]).backward()
    before = copy.deepcopy(run.net.state_dict())
    with pytest.raises(SparsityError, match="load the states of the model, its optimizers and its"):
        run.optimizer.step()
    assert not differences(before, run.net.state_dict())


@pytest.mark.parametrize("digest", [b"x" * 16, b"", b"x" * 15, "text", None, [0] * 16])
def test_a_damaged_checksum(digest: Any) -> None:
    run = fresh().train(DATA[:3])
    state = run.updater.state_dict()
    is_bytes = isinstance(digest, bytes)
    held = torch.tensor(list(digest), dtype=torch.uint8) if is_bytes else digest
    state["layers"]["2.weight"]["digest"] = held
    if is_bytes and len(digest) == 16:
        run.updater.load_state_dict(state)  # well formed: the model decides
        loss_of(run.net, DATA[2]).backward()
        with pytest.raises(SparsityError, match=r"'2\.weight'"):
            run.optimizer.step()
    else:
        before = copy.deepcopy(run.updater.state_dict())
        with pytest.raises(SparsityError, match="digest"):
            run.updater.load_state_dict(state)
        assert not differences(before, run.updater.state_dict())


# -- copies and averages -------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_copies_train_on_alike(method: str) -> None:
    run = fresh(method).train(DATA[:5])
    net, optimizer, updater = copy.deepcopy((run.net, run.optimizer, run.updater))
    twin = Run(net, optimizer, updater)
    before = end_of(run)
    twin.train(DATA[5:])
    assert not differences(before, end_of(run)), "the copy is independent"
    run.train(DATA[5:])
    assert not differences(end_of(run), end_of(twin))


def test_whole_models_can_be_pickled() -> None:
    run = fresh("rigl", interval=1).train(DATA[:2])
    loss_of(run.net, DATA[0]).backward()
    file = io.BytesIO()
    torch.save({"net": run.net, "optimizer": run.optimizer}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded["net"](DATA[0][0]), run.net(DATA[0][0]))
    for batch in DATA[:3]:
        plain_step(loaded["net"], loaded["optimizer"], batch)
    assert not any(module.watched for module in loaded["net"][::2])


@pytest.mark.parametrize("method", METHODS)
def test_averaged_values_move_with_their_connection(method: str) -> None:
    """Against an average of dense weights that is masked by hand."""
    run = fresh(method)
    averaged = AveragedModel(run.net, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    run.updater.follow(averaged)
    reference: dict[str, torch.Tensor] = {}
    for batch in DATA:
        plain_step(run.net, run.optimizer, batch)
        for name, topology in run.updater.topologies.items():
            owner = run.net.get_submodule(name.rpartition(".")[0])
            now = owner.dense_weight()
            old = reference.get(name)
            reference[name] = now if old is None else (0.8 * old + 0.2 * now) * topology.mask
        averaged.update_parameters(run.net)
        for name, wanted in reference.items():
            theirs = averaged.module.get_submodule(name.rpartition(".")[0])
            assert theirs.topology == run.updater.topologies[name]
            torch.testing.assert_close(theirs.dense_weight(), wanted, rtol=0, atol=1e-12)
    assert averaged(DATA[0][0]).shape == (12, 6)


def test_following_begins_at_once_and_goes_on_after_a_load() -> None:
    run = fresh("mest").train(DATA[:HALF])
    averaged = AveragedModel(copy.deepcopy(run.net))
    states = states_of(run)
    run.train(DATA[HALF:])
    run.updater.follow(averaged)
    assert averaged.module[0].topology == run.net[0].topology
    assert averaged.module[0].values.shape == run.net[0].values.shape
    load(run, states)
    plain_step(run.net, run.optimizer, DATA[HALF])
    plain_step(run.net, run.optimizer, DATA[HALF])
    averaged.update_parameters(run.net)
    assert averaged.module[0].topology == run.net[0].topology


@pytest.mark.parametrize("compact", [True, False])
def test_following_a_copy_of_another_kind_is_refused(compact: bool) -> None:
    run = fresh(compact=compact)
    other = fresh(compact=not compact).net
    before = copy.deepcopy(other.state_dict())
    kind = "dense" if compact else "truly sparse"
    with pytest.raises(SparsityError, match=rf"needs a copy .* '0\.weight' is {kind} there"):
        run.updater.follow(other)
    assert not differences(before, other.state_dict())


# -- letting go ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["detach", "forget"])
def test_nothing_is_kept_for_nobody(how: str) -> None:
    import gc

    run = fresh("rigl", interval=1)
    net = run.net
    if how == "detach":
        run.updater.detach()
    del run
    gc.collect()
    for batch in DATA[:3]:
        loss_of(net, batch).backward()
    assert [len(layer.watched) for layer in net[::2]] == [0, 0, 0]
    again = torch.optim.SGD(net.parameters(), lr=0.1)
    updater = regrow.set_training(net, again, sparsity=SPARSITY, n_steps=8, interval=1)
    plain_step(net, again, DATA[0])
    assert updater.rewirings == 1
