"""updater.edit: decisions from outside, between two steps."""

import copy
from typing import Any

import pytest
import torch
from compact_cases import (
    OPTIMIZERS,
    SPARSITY,
    Run,
    assert_same_runs,
    batches,
    both,
    dense_weights,
    linear_net,
    loss_of,
    plain_step,
    start,
)
from state_cases import differences
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import regrow
from regrow.errors import SparsityError
from regrow.topology import TopologyDelta

DATA = batches(10)
NONE = torch.empty(0, dtype=torch.int64)


def some_delta(run: Run, name: str, n_dropped: int, n_grown: int) -> TopologyDelta:
    """Some units of a layer that are there, and some that are not."""
    topology = run.updater.topologies[name]
    return TopologyDelta(
        topology.units[3 : 3 + n_dropped], topology.free.nonzero().squeeze(1)[5 : 5 + n_grown]
    )


@pytest.mark.parametrize("counts", [(4, 4), (6, 2), (0, 5), (7, 0)])
@pytest.mark.parametrize("optimizer", ["momentum", "adamw", "rprop"])
@pytest.mark.parametrize("method", ["static", "set", "rigl", "granet"])
def test_masked_and_truly_sparse_agree(method: str, optimizer: str, counts: Any) -> None:
    pair = both(linear_net, method, optimizer)
    for run in pair:
        for i, batch in enumerate(DATA):
            if i in (0, 4, 5, 8):
                name = "2.weight" if i == 4 else "0.weight"
                record = run.updater.edit({name: some_delta(run, name, *counts)})
                assert record == run.updater.history[-1]
                assert record.step == i
            run.train([batch])
    assert_same_runs(*pair)


@pytest.mark.parametrize("compact", [False, True])
def test_values_and_moments_follow(compact: bool) -> None:
    run = start(linear_net(), "static", "adamw", compact=compact).train(DATA[:3])
    owner = run.net[0]
    before = dense_weights(run.net, ["0.weight"])["0.weight"]
    delta = some_delta(run, "0.weight", 5, 3)
    n = run.updater.nnz
    run.updater.edit({"0.weight": delta})
    after = dense_weights(run.net, ["0.weight"])["0.weight"]
    wanted = before.reshape(-1).clone()
    wanted[delta.dropped] = 0
    assert torch.equal(after.reshape(-1), wanted)
    assert run.updater.nnz == n - 2
    if compact:
        state = run.optimizer.state[owner.values]
        places = torch.searchsorted(owner.topology.indices, delta.grown)
        for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            assert state[key].shape == owner.values.shape
            assert not state[key][places].any()
            assert state[key].count_nonzero() == owner.nnz - 3
    before_step = after
    plain_step(run.net, run.optimizer, DATA[3])
    moved = dense_weights(run.net, ["0.weight"])["0.weight"].reshape(-1)
    assert moved[delta.grown].all()
    assert not moved[delta.dropped].any()
    assert not torch.equal(moved, before_step.reshape(-1))


def test_rules_go_on_from_the_new_counts() -> None:
    run = start(linear_net(), "rigl", "momentum", compact=True)
    run.updater.edit({"0.weight": some_delta(run, "0.weight", 30, 0)})
    nnz = run.net[0].nnz
    run.train(DATA)
    assert run.net[0].nnz == nnz
    assert run.updater.rewirings > 1
    granet = start(linear_net(), "granet", "momentum", compact=True)
    granet.updater.edit({"0.weight": some_delta(granet, "0.weight", 30, 0)})
    granet.train(batches(16))
    assert granet.updater.sparsity == pytest.approx(SPARSITY, abs=1e-3)


def test_averages_follow() -> None:
    run = start(linear_net(), "static", "momentum", compact=True)
    averaged = AveragedModel(run.net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    run.updater.follow(averaged)
    for batch in DATA[:3]:
        plain_step(run.net, run.optimizer, batch)
        averaged.update_parameters(run.net)
    before = averaged.module[0].dense_weight().reshape(-1)
    delta = some_delta(run, "0.weight", 5, 2)
    run.updater.edit({"0.weight": delta})
    wanted = before.clone()
    wanted[delta.dropped] = 0
    assert torch.equal(averaged.module[0].dense_weight().reshape(-1), wanted)
    averaged.update_parameters(run.net)
    assert averaged.module[0].topology == run.net[0].topology


@pytest.mark.parametrize("method", ["static", "rigl"])
@pytest.mark.parametrize("compact", [False, True])
def test_it_is_part_of_what_is_saved(method: str, compact: bool) -> None:
    runs = [start(linear_net(), method, "adamw", compact=compact) for _ in range(2)]
    run, again = runs
    heard = []
    run.updater.on_rewire(heard.append)
    run.updater.edit({"0.weight": some_delta(run, "0.weight", 3, 1)})
    run.updater.edit({"0.weight": some_delta(run, "0.weight", 1, 3)})
    run.train(DATA[:4])
    run.updater.edit({"4.weight": some_delta(run, "4.weight", 2, 2)})
    assert [record.step for record in heard] == [0, 0, *([3] if method == "rigl" else []), 4]
    parts = [(one.net, one.optimizer, one.updater) for one in runs]
    for source, target in zip(*parts, strict=True):
        target.load_state_dict(copy.deepcopy(source.state_dict()))
    for one in runs:
        one.train(DATA[4:])
    assert not differences(run.updater.state_dict(), again.updater.state_dict())
    assert not differences(run.net.state_dict(), again.net.state_dict())


def test_reports_count_weight_steps_and_flops_without_edits() -> None:
    """An edit takes the place of no weight step, and reads no gradient."""
    run, plain = (start(linear_net(), "rigl", "momentum", compact=True) for _ in range(2))
    run.updater.edit({"0.weight": some_delta(run, "0.weight", 4, 4)})
    for one in (run, plain):
        one.train(DATA[:2])
    run.updater.edit({"0.weight": some_delta(run, "0.weight", 4, 4)})
    assert run.updater.weight_steps == plain.updater.weight_steps == 2
    assert run.updater.report().weight_steps == 2
    assert "2 steps" in str(run.updater.report())
    x = DATA[0][0]
    assert run.updater.training_flops(x) == plain.updater.training_flops(x)
    for one in (run, plain):
        one.train(DATA[2:4])
    assert run.updater.weight_steps == plain.updater.weight_steps == 3


def test_the_same_units_dropped_and_grown_start_afresh() -> None:
    for compact in (False, True):
        run = start(linear_net(), "static", "momentum", compact=compact).train(DATA[:2])
        units = run.updater.topologies["0.weight"].units[:4]
        before = run.updater.topologies["0.weight"]
        run.updater.edit({"0.weight": TopologyDelta(units, units)})
        assert run.updater.topologies["0.weight"] == before
        weight = dense_weights(run.net, ["0.weight"])["0.weight"].reshape(-1)
        assert not weight[units].any()
        assert weight[before.units[4:]].all()


# -- what is refused -----------------------------------------------------------------------------

FITS = TopologyDelta(NONE, NONE)
MUST_MAP = "deltas must map names of layers to regrow.TopologyDelta, got"


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize(
    ("deltas", "error", "message"),
    [
        ({"1.weight": FITS}, SparsityError, r"'1\.weight', which is no layer; .*0\.weight, 2\.w"),
        ({"0.weight": "x"}, TypeError, MUST_MAP),
        ({"0.weight": None}, TypeError, MUST_MAP),
        ({"0.weight": (NONE, NONE)}, TypeError, MUST_MAP),
        (None, TypeError, MUST_MAP),
        ("0.weight", TypeError, MUST_MAP),
        ([FITS], TypeError, MUST_MAP),
        ({"0.weight": TopologyDelta([0], NONE)}, TypeError, "dropped must be a torch.Tensor"),
        (
            {"0.weight": TopologyDelta(NONE, torch.tensor([9999]))},
            SparsityError, r"grown must .*\[0, 1152\)",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_changes_nothing(
    deltas: Any, error: Any, message: str, compact: bool
) -> None:
    run = start(linear_net(), "rigl", "adamw", compact=compact).train(DATA[:2])
    parts = (run.net, run.optimizer, run.updater)
    before = copy.deepcopy([part.state_dict() for part in parts])
    with pytest.raises(error, match=message):
        run.updater.edit(deltas)
    if isinstance(deltas, dict):  # nor where another layer's fits and comes first
        with pytest.raises(error, match=message):
            run.updater.edit({"4.weight": some_delta(run, "4.weight", 2, 1), **deltas})
    assert not differences(before, [part.state_dict() for part in parts])


@pytest.mark.parametrize("compact", [False, True])
def test_units_that_are_there_or_not(compact: bool) -> None:
    run = start(linear_net(), "static", compact=compact)
    topology = run.updater.topologies["0.weight"]
    there, free = topology.units[:2], topology.free.nonzero().squeeze(1)[:2]
    for delta, message in (
        (TopologyDelta(free, NONE), "cannot drop units that are not active"),
        (TopologyDelta(NONE, there), "cannot grow units that are active"),
        (TopologyDelta(there.flip(0), NONE), "dropped must be ascending"),
    ):
        with pytest.raises(SparsityError, match=message):
            run.updater.edit({"2.weight": FITS, "0.weight": delta})
    assert run.updater.topologies["0.weight"] == topology
    assert not run.updater.history


def test_structures_hold() -> None:
    for compact in (False, True):
        run = start(linear_net(), "static", compact=compact, structure=regrow.ConstantFanIn())
        with pytest.raises(SparsityError):
            run.updater.edit({"0.weight": some_delta(run, "0.weight", 1, 0)})
        assert not run.updater.history


@pytest.mark.parametrize("compact", [False, True])
def test_between_backward_and_step_growth_still_sees_the_whole_gradient(compact: bool) -> None:
    """Or it is refused there: a rewiring that is due must not grow by zeros."""
    runs = [
        start(linear_net(), "rigl", "sgd", compact=compact, interval=1, regrow="never")
        for _ in range(2)
    ]
    for run in runs:
        loss_of(run.net, DATA[0]).backward()
    units = runs[0].updater.topologies["0.weight"].units[:1]
    try:
        runs[0].updater.edit({"0.weight": TopologyDelta(units, NONE)})
    except SparsityError as error:
        assert "step" in str(error)  # noqa: PT017
        return
    for run in runs:
        run.optimizer.step()
    one, two = (set(run.updater.topologies["0.weight"].indices.tolist()) for run in runs)
    assert len(one ^ two) <= 10


def test_an_empty_edit_is_a_record_of_nothing() -> None:
    run = start(linear_net(), "static", compact=True)
    optimizer = OPTIMIZERS["sgd"](run.net.parameters())
    before = copy.deepcopy(run.net.state_dict())
    record = run.updater.edit({"0.weight": FITS})
    assert sum(record.n_dropped) == sum(record.n_grown) == 0
    assert not differences(before, run.net.state_dict())
    assert optimizer.state == {}
