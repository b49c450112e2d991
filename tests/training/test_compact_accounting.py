"""What a truly sparse model says of itself: the numbers of the masked one."""

import copy
import math
from typing import Any

import pytest
import torch
from compact_cases import (
    METHODS,
    N_STEPS,
    OPTIMIZERS,
    batches,
    both,
    conv_net,
    linear_net,
    plain_step,
    start,
)
from state_cases import differences
from torch import nn

import regrow
from regrow.integrations import log_metrics

DATA = batches(N_STEPS)
X = DATA[0][0]
PAST = {"exploration", "survival_age", "survival_age_median"}


@pytest.mark.parametrize("make", [linear_net, conv_net])
@pytest.mark.parametrize("method", METHODS)
def test_costs_plans_and_reports(method: str, make: Any) -> None:
    masked, compact = (run.train(DATA) for run in both(make, method, "adamw"))
    for inputs in (None, X):
        one, two = masked.updater.plan(inputs), compact.updater.plan(inputs)
        assert one.notes == two.notes
        assert one.full_layers == two.full_layers
        assert one.sparsity == two.sparsity
        if inputs is not None:
            assert one.cost == two.cost
        for a, b in zip(one.rows, two.rows, strict=True):
            if a.structure:
                assert b.bytes == 8 * a.nnz + 4 * a.nnz
                assert (a.name, a.shape, a.structure, a.nnz) == (
                    b.name,
                    b.shape,
                    b.structure,
                    b.nnz,
                )
                assert (a.flops, a.reason) == (b.flops, b.reason)
            else:
                assert a == b
        assert str(two)
    assert masked.updater.training_flops(X) == compact.updater.training_flops(X)
    assert masked.updater.sparsity == compact.updater.sparsity
    assert masked.updater.nnz == compact.updater.nnz
    theirs, ours = masked.updater.report(), compact.updater.report()
    for name in vars(theirs):
        if name not in PAST | {"layers", "grad_norm"}:
            assert getattr(theirs, name) == getattr(ours, name), name
    for a, b in zip(theirs.layers, ours.layers, strict=True):
        for name in vars(a):
            if name not in PAST | {"grad_norm"}:
                assert getattr(a, name) == getattr(b, name), name
    assert compact.updater.exploration is None
    assert all(getattr(ours, name) is None for name in PAST)
    assert "-" in str(ours)


def test_counts_with_and_without_topologies() -> None:
    """A truly sparse layer has its own, whatever is passed."""
    for make in (linear_net, conv_net):
        dense, compact = make(), make()
        topologies = regrow.compress_(compact, sparsity=0.7, seed=1)
        for convention in ("mac2", "micronet"):
            wanted = regrow.count(dense, X, topologies, convention=convention)
            assert regrow.count(compact, X, topologies, convention=convention) == wanted
            assert regrow.count(compact, X, {}, convention=convention) == wanted
        assert wanted.parameters == sum(p.numel() for p in dense.parameters())
        with pytest.raises(ValueError, match="shape"):
            regrow.count(compact, X, {next(iter(topologies)): regrow.Topology.full((2, 2))})


def test_counting_leaves_nothing_behind_on_a_due_step() -> None:
    run = start(linear_net(), "rigl", compact=True, interval=1)
    plain_step(run.net, run.optimizer, DATA[0])
    before = copy.deepcopy(run.net.state_dict())
    run.updater.plan(X)
    run.updater.training_flops(X)
    assert not any(layer.watched for layer in run.net[::2])
    assert not differences(before, run.net.state_dict())


@pytest.mark.parametrize("every", [None, 1])
@pytest.mark.parametrize("method", ["set", "rigl", "mest", "granet"])
def test_metrics(method: str, every: int | None) -> None:
    told: list[list[tuple[int, dict[str, float]]]] = [[], []]
    for run, heard in zip(both(linear_net, method, "sgd"), told, strict=True):
        run.updater.on_metrics(
            lambda step, metrics, heard=heard: heard.append((step, dict(metrics))),
            every=every,
            per_layer=True,
        )
        run.train(DATA)
    masked, compact = told
    assert [step for step, _ in masked] == [step for step, _ in compact]
    assert len(compact) == (N_STEPS if every else len(compact)) > 2
    for (_, ours), (_, theirs) in zip(compact, masked, strict=True):
        assert {name for name in theirs if name.rpartition("/")[2] not in PAST} == set(ours)
        for name, value in ours.items():
            assert math.isfinite(value)
            assert value == pytest.approx(theirs[name], rel=1e-9), name


def test_loggers_take_them() -> None:
    class Writer:
        def __init__(self) -> None:
            self.told: list[tuple[str, float, int]] = []

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.told.append((name, value, step))

    writer = Writer()
    run = start(linear_net(), "rigl", compact=True)
    run.updater.on_metrics(log_metrics(writer))
    run.train(DATA)
    assert {step for *_, step in writer.told} == {record.step for record in run.updater.history}
    assert "regrow/nnz" in {name for name, *_ in writer.told}


def test_dead_neurons_of_convolutions_in_groups() -> None:
    """Counted by hand from the mask."""
    run = start(conv_net(), "static", compact=True)
    report = {row.name: row for row in run.updater.report().layers}
    mask = run.updater.topologies["3.weight"].mask
    row = report["3.weight"]
    assert (row.n_outputs, row.n_inputs) == (12, 12)
    assert row.n_dead_outputs == int((~mask.flatten(1).any(1)).sum())
    by_group = mask.view(2, 6, 6, -1).any(3).any(1)
    assert row.n_dead_inputs == int((~by_group).sum())


# -- doctor --------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw", "fused-adamw"])
@pytest.mark.parametrize("method", METHODS)
def test_the_doctor_finds_nothing_in_a_healthy_run(method: str, optimizer: str) -> None:
    """And leaves everything as it was, rewirings that change counts included."""
    run, untouched = (
        start(linear_net(dtype=torch.float32), method, optimizer, compact=True) for _ in range(2)
    )
    data = batches(N_STEPS, dtype=torch.float32)
    for one in (run, untouched):
        one.train(data[:2])  # the rewiring of step 3 falls into the doctor's
    number = iter(range(3))

    def step() -> None:
        plain_step(run.net, run.optimizer, data[2 + next(number)])

    before = copy.deepcopy([p.state_dict() for p in (run.net, run.optimizer, run.updater)])
    diagnosis = regrow.doctor(run.net, run.optimizer, run.updater, step)
    assert diagnosis.is_healthy, str(diagnosis)
    assert diagnosis.n_calls == 3
    after = [p.state_dict() for p in (run.net, run.optimizer, run.updater)]
    assert not differences(before, after)
    for one in (run, untouched):
        one.train(data[2:])
    assert run.losses == untouched.losses
    assert dict(run.updater.topologies) == dict(untouched.updater.topologies)


def test_the_doctor_finds_an_optimizer_that_was_not_passed() -> None:
    run = start(linear_net(dtype=torch.float32), "rigl", compact=True)
    other = OPTIMIZERS["sgd"](run.net.parameters())
    data = iter(batches(3, dtype=torch.float32))

    def step() -> None:
        plain_step(run.net, other, next(data))

    diagnosis = regrow.doctor(run.net, run.optimizer, run.updater, step)
    assert not diagnosis.is_healthy


def test_collapse_is_warned_of() -> None:
    """A layer that an edit empties; global pruning may do the same."""
    run = start(linear_net(), "static", compact=True)
    topology = run.updater.topologies["4.weight"]
    run.updater.edit({"4.weight": regrow.TopologyDelta(topology.units, topology.units[:0])})
    assert "4.weight" in run.updater.report().collapsed
    plain_step(run.net, run.optimizer, DATA[0])
    assert run.net[4].nnz == 0


def test_mixed_models_report_what_is_known() -> None:
    """Ages of masked layers are known, of the whole not."""
    net = nn.Sequential(nn.Linear(24, 12), nn.Linear(12, 6)).double()
    regrow.compress_(net, sparsity=0.5, select="0.weight")
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = regrow.combine(
        net,
        optimizer,
        [
            regrow.part(
                regrow.set_training, select="0.weight", sparsity=0.5, n_steps=9, interval=2
            ),
            regrow.part(
                regrow.set_training, select="1.weight", sparsity=0.5, n_steps=9, interval=2
            ),
        ],
    )
    for batch in DATA[:5]:
        plain_step(net, optimizer, batch)
    compact, masked = updater.report().layers
    assert compact.exploration is None
    assert masked.exploration > 0.5
    assert updater.exploration is None
    assert updater.rewirings == 2
    metrics = updater.metrics(per_layer=True)
    assert "regrow/layer/1.weight/exploration" in metrics
    assert "regrow/layer/0.weight/exploration" not in metrics
