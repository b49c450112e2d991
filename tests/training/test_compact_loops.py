"""Ways to write the training loop: masked and truly sparse training stay one."""

from typing import Any

import pytest
import torch
from compact_cases import (
    N_STEPS,
    Batch,
    assert_same_runs,
    batches,
    both,
    linear_net,
    loss_of,
    start,
)
from torch import nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

DATA = batches(N_STEPS)


def compare(*arguments: Any, step: Any, **options: Any) -> None:
    pair = both(*arguments, **options)
    for run in pair:
        run.train(DATA, step)
    assert_same_runs(*pair)


def accumulate(net: nn.Module, optimizer: Optimizer, batch: Batch) -> float:
    optimizer.zero_grad()
    total = 0.0
    for some in (slice(0, 5), slice(5, 6), slice(6, 12)):
        share = (some.stop - some.start) / 12
        loss = share * loss_of(net, (batch[0][some], batch[1][some]))
        loss.backward()
        total += loss.item()
    optimizer.step()
    return total


def accumulate_in_place(net: nn.Module, optimizer: Optimizer, batch: Batch) -> float:
    total = accumulate(net, optimizer, batch)
    optimizer.zero_grad(set_to_none=False)
    loss_of(net, batch).backward()  # thrown away
    optimizer.zero_grad(set_to_none=False)
    return total


def scaled_down(net: nn.Module, optimizer: Optimizer, batch: Batch) -> float:
    """What clipping by norm does; the norm itself is another where gradients are dense."""
    optimizer.zero_grad()
    loss = loss_of(net, batch)
    loss.backward()
    for parameter in net.parameters():
        parameter.grad.mul_(0.125)
    optimizer.step()
    return loss.item()


def one_pass_of_two(net: nn.Module, optimizer: Optimizer, batch: Batch) -> float:
    """Two forward passes of every layer before one backward pass."""
    optimizer.zero_grad()
    x, y = batch
    both_ = net(x[:6]), net(x[6:])
    loss = nn.functional.cross_entropy(torch.cat(both_), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def checkpointed(net: nn.Module, optimizer: Optimizer, batch: Batch) -> float:
    optimizer.zero_grad()
    x, y = batch
    loss = nn.functional.cross_entropy(checkpoint(net, x, use_reentrant=False), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def checkpointed_by_parts(net: nn.Module, optimizer: Optimizer, batch: Batch) -> float:
    optimizer.zero_grad()
    x, y = batch
    x = x.clone().requires_grad_()
    for module in net:
        x = checkpoint(module, x, use_reentrant=True)
    loss = nn.functional.cross_entropy(x, y)
    loss.backward()
    optimizer.step()
    return loss.item()


def closure(net: nn.Module, optimizer: Optimizer, batch: Batch) -> float:
    def run() -> float:
        optimizer.zero_grad()
        loss = loss_of(net, batch)
        loss.backward()
        return loss

    return optimizer.step(run).item()


def adversarial(net: nn.Module, optimizer: Optimizer, batch: Batch) -> float:
    """Fast gradient sign: a gradient of the input, and not of the weights, comes first."""
    x, y = batch
    probe = x.clone().requires_grad_()
    (direction,) = torch.autograd.grad(loss_of(net, (probe, y)), probe)
    return closure(net, optimizer, (x + 0.3 * direction.sign(), y))


def adversarial_in_micro_batches(net: nn.Module, optimizer: Optimizer, batch: Batch) -> float:
    """The same while the gradient of the first half waits in ``.grad``."""
    optimizer.zero_grad()
    x, y = batch
    total = 0.0
    for some in (slice(0, 6), slice(6, 12)):
        probe = x[some].clone().requires_grad_()
        (direction,) = torch.autograd.grad(loss_of(net, (probe, y[some])), probe)
        loss = loss_of(net, (x[some] + 0.3 * direction.sign(), y[some])) / 2
        loss.backward()
        total += loss.item()
    optimizer.step()
    return total


def input_gradient_on_the_way(net: nn.Module, optimizer: Optimizer, batch: Batch) -> float:
    """The graph of the second half is walked twice, once for its input alone."""
    optimizer.zero_grad()
    x, y = batch
    total = 0.0
    for some in (slice(0, 6), slice(6, 12)):
        probe = x[some].clone().requires_grad_()
        loss = loss_of(net, (probe, y[some])) / 2
        if some.start:
            torch.autograd.grad(loss, probe, retain_graph=True)
        loss.backward()
        total += loss.item()
    optimizer.step()
    return total


def thrown_away(net: nn.Module, optimizer: Optimizer, batch: Batch) -> float:
    x, y = batch
    loss_of(net, (x.flip(0) * 3, y)).backward()
    return closure(net, optimizer, batch)


def evaluated_in_between(net: nn.Module, optimizer: Optimizer, batch: Batch) -> float:
    optimizer.zero_grad()
    loss = loss_of(net, batch)
    net.eval()
    with torch.no_grad():
        net(batch[0] * 2)
    net(batch[0] * 3)  # a graph that is never walked
    net.train()
    loss.backward()
    optimizer.step()
    return loss.item()


LOOPS = [
    accumulate, accumulate_in_place, scaled_down, one_pass_of_two, checkpointed,
    checkpointed_by_parts, closure, adversarial, adversarial_in_micro_batches,
    input_gradient_on_the_way, thrown_away, evaluated_in_between,
]  # fmt: skip


@pytest.mark.parametrize("weight_step", ["before", "after", "skip"])
@pytest.mark.parametrize("loop", LOOPS)
def test_loops(loop: Any, weight_step: str) -> None:
    options = {"weight_step": weight_step, "interval": 2, "stop_at": 1.0}
    compare(linear_net, "rigl", "momentum", step=loop, **options)


@pytest.mark.parametrize("method", ["mest-gradient", "granet"])
def test_loops_while_counts_change(method: str) -> None:
    for loop in (accumulate, one_pass_of_two, adversarial):
        compare(linear_net, method, "adamw", step=loop)


def test_clipping_by_norm() -> None:
    """Where the norm is that of connections alone: on steps that do not rewire by gradient."""
    found = []

    def clip(net: nn.Module, optimizer: Optimizer, batch: Batch) -> float:
        optimizer.zero_grad()
        loss = loss_of(net, batch)
        loss.backward()
        found.append(float(nn.utils.clip_grad_norm_(net.parameters(), 0.05)))
        optimizer.step()
        return loss.item()

    compare(linear_net, "set", "momentum", step=clip)
    assert min(found) > 0.05
    half = len(found) // 2
    assert found[:half] == pytest.approx(found[half:], abs=1e-9)


def test_clipping_does_not_change_which_connections_grow() -> None:
    """The factor that clipping leaves in ``.grad`` is one of all entries."""
    runs = []
    for clip in (None, 1e-3):
        run = start(linear_net(), "rigl", "sgd", compact=True, interval=1, stop_at=1.0)
        loss_of(run.net, DATA[0]).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(run.net.parameters(), clip)
        run.optimizer.step()
        runs.append(run.updater.topologies)
    assert dict(runs[0]) == dict(runs[1])
