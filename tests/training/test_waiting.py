"""Rewirings that have to wait because a gradient is not finite."""

import io
from typing import Any

import pytest
import torch
from tiny_cases import OPTIMIZERS, batches, loss_of, same, snapshot, step, tiny_net
from torch import Tensor, nn

import regrow

N_WEIGHTS = 2584


def rigl(net: nn.Module, optimizer: Any, **options: Any) -> regrow.TopologyUpdater:
    return regrow.rigl(net, optimizer, sparsity=0.7, n_steps=16, interval=4, **options)


def spoiled_step(
    net: nn.Module, optimizers: Any, updater: regrow.TopologyUpdater, batch: Any
) -> None:
    """A step with NaN in one dead entry of the last layer's gradient: it moves no weight."""
    loss_of(net, batch).backward()
    name = "fc.weight"
    dead = (~updater.topologies[name].mask).nonzero()[0]
    net.get_parameter(name).grad[tuple(dead)] = torch.nan
    for one in optimizers:
        one.step()
    for one in optimizers:
        one.zero_grad()
    assert all(p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("weight_step", ["before", "after", "skip"])
def test_it_is_done_on_the_first_sound_step_and_once(weight_step: Any) -> None:
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = rigl(net, optimizer, weight_step=weight_step)
    for i, batch in enumerate(batches(16), start=1):
        if i in (4, 5, 6, 12):
            before = [p.detach().clone() for p in net.parameters()]
            spoiled_step(net, [optimizer], updater, batch)
            assert not same(before, [p.detach() for p in net.parameters()]), "the weights step"
        else:
            step(net, optimizer, batch)
        assert updater.steps == i
    # 4 waits until 7; 8 comes in time; 12 is not planned: rewiring stops at 12.
    assert [record.step for record in updater.history] == [7, 8]


def test_two_that_are_owed_are_done_as_one() -> None:
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = rigl(net, optimizer)
    for i, batch in enumerate(batches(12), start=1):
        if 4 <= i <= 8:
            spoiled_step(net, [optimizer], updater, batch)
        else:
            step(net, optimizer, batch)
    assert [record.step for record in updater.history] == [9]


def test_the_last_target_is_met_behind_the_last_planned_step() -> None:
    for make in (regrow.granet, lambda *a, **k: regrow.mest(*a, growth="gradient", **k)):
        net = tiny_net()
        optimizer = OPTIMIZERS["sgd"](net.parameters())
        updater = make(net, optimizer, sparsity=0.7, n_steps=20, interval=4, stop_at=0.7)
        data = batches(20)
        for batch in data[:11]:
            step(net, optimizer, batch)
        for batch in data[11:15]:
            spoiled_step(net, [optimizer], updater, batch)
        assert updater.nnz > round(0.3 * N_WEIGHTS)
        step(net, optimizer, data[15])
        assert updater.nnz == round(0.3 * N_WEIGHTS)


def test_what_is_owed_survives_a_resume() -> None:
    def build(seed: int) -> tuple[Any, Any, Any]:
        net = tiny_net(seed)
        optimizer = OPTIMIZERS["sgd"](net.parameters())
        return net, optimizer, rigl(net, optimizer, seed=seed, weight_step="before")

    data = batches(14)
    net, optimizer, updater = build(0)
    for batch in data[:7]:
        step(net, optimizer, batch)
    for batch in data[7:9]:
        spoiled_step(net, [optimizer], updater, batch)
    saved = io.BytesIO()
    torch.save((net.state_dict(), optimizer.state_dict(), updater.state_dict()), saved)
    saved.seek(0)
    again = build(1)
    for one, state in zip(again, torch.load(saved, weights_only=True), strict=True):
        one.load_state_dict(state)
    for batch in data[9:]:
        step(net, optimizer, batch)
        step(again[0], again[1], batch)
    assert [record.step for record in updater.history] == [4, 10]
    assert updater.history == again[2].history
    assert same(snapshot(net, optimizer), snapshot(*again[:2]))


def test_growth_at_random_does_not_wait() -> None:
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = regrow.set_training(net, optimizer, sparsity=0.7, n_steps=16, interval=4)
    for batch in batches(9):
        spoiled_step(net, [optimizer], updater, batch)
    assert [record.step for record in updater.history] == [4, 8]


@pytest.mark.parametrize("weight_step", ["before", "skip"])
def test_two_optimizers_wait_as_one_does(weight_step: Any) -> None:
    """Where the rewiring does not come, its weight step does, in every optimizer."""

    def run(split: bool) -> tuple[dict[str, Tensor], Any]:
        net = tiny_net()
        parts = [list(net.parameters())]
        if split:
            # The spoiled gradient is in the one that steps last.
            parts = [
                [p for p in net.parameters() if p is not net.fc.weight],
                [net.fc.weight],
            ]
        optimizers = [torch.optim.SGD(p, lr=0.05, momentum=0.9) for p in parts]
        updater = rigl(net, optimizers, weight_step=weight_step)
        for i, batch in enumerate(batches(10), start=1):
            if i in (4, 5, 8):
                spoiled_step(net, optimizers, updater, batch)
            else:
                step(net, optimizers, batch)
        return dict(net.state_dict()), updater.history

    one, two = run(False), run(True)
    assert [record.step for record in one[1]] == [6, 9]
    assert one[1] == two[1]
    assert all(torch.equal(one[0][n], two[0][n]) for n in one[0])
