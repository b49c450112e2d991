"""Several optimizers: each weight in one, in one order, each once a step."""

from typing import Any

import pytest
import torch
from tiny_cases import (
    batches,
    check_dead,
    fresh_state,
    loss_of,
    masks_of,
    muon_and_adamw,
    same,
    snapshot,
    step,
    tiny_net,
)
from torch import Tensor, nn
from torch.amp import GradScaler

import regrow
from regrow.errors import SparsityError


def two(net: nn.Module, *, fused: bool = False, momentum: float = 0.9) -> list[Any]:
    """Convolutions and biases in the first, matrices in the second: both hold sparse weights."""
    matrices = [p for p in net.parameters() if p.dim() == 2]
    rest = [p for p in net.parameters() if p.dim() != 2]
    options = {"lr": 0.05, "momentum": momentum, "weight_decay": 1e-3, "fused": fused}
    return [torch.optim.SGD(rest, **options), torch.optim.SGD(matrices, **options)]


def rigl(net: nn.Module, optimizers: Any, **options: Any) -> regrow.TopologyUpdater:
    return regrow.rigl(net, optimizers, sparsity=0.7, n_steps=20, interval=4, **options)


@pytest.mark.parametrize("weight_step", ["before", "skip"])
@pytest.mark.parametrize("method", ["rigl", "set", "granet", "mest"])
def test_two_optimizers_do_what_one_does(method: str, weight_step: Any) -> None:
    make = {
        "rigl": regrow.rigl,
        "set": regrow.set_training,
        "granet": regrow.granet,
        "mest": regrow.mest,
    }[method]
    options = {"sparsity": 0.7, "n_steps": 20, "interval": 4, "weight_step": weight_step}

    def run(split: bool) -> tuple[dict[str, Tensor], Any, int]:
        net = tiny_net()
        optimizers = two(net)
        if not split:
            optimizers = [
                torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
            ]
        updater = make(net, optimizers if split else optimizers[0], **options)
        for batch in batches(16):
            step(net, optimizers, batch)
        return dict(net.state_dict()), updater.history, updater.steps

    one, other = run(False), run(True)
    assert all(torch.equal(one[0][n], other[0][n]) for n in one[0])
    assert one[1:] == other[1:]


def test_after_needs_a_single_optimizer() -> None:
    net = tiny_net()
    before = snapshot(net, [])
    with pytest.raises(ValueError, match="weight_step='after' needs a single optimizer"):
        rigl(net, two(net), weight_step="after")
    assert same(before, snapshot(net, []))
    rigl(net, [torch.optim.SGD(net.parameters(), lr=0.1)], weight_step="after")


@pytest.mark.parametrize("container", [list, tuple])
def test_a_sequence_of_any_kind(container: Any) -> None:
    net = tiny_net()
    optimizers = two(net)
    updater = rigl(net, container(optimizers))
    for batch in batches(4):
        step(net, optimizers, batch)
    assert (updater.steps, updater.rewirings) == (4, 1)


def test_another_order_raises() -> None:
    net = tiny_net()
    optimizers = two(net)
    rigl(net, optimizers)
    loss_of(net, batches(1)[0]).backward()
    with pytest.raises(SparsityError, match=r"1: SGD stepped where 0: SGD was due.*order"):
        optimizers[1].step()


def test_one_left_out_raises() -> None:
    net = tiny_net()
    optimizers = muon_and_adamw(net.parameters())
    rigl(net, optimizers)
    data = batches(3)
    step(net, optimizers, data[0])
    loss_of(net, data[1]).backward()
    optimizers[0].step()
    with pytest.raises(SparsityError, match="0: Muon stepped where 1: AdamW was due"):
        optimizers[0].step()


def test_right_order_is_accepted_after_an_order_error() -> None:
    net = tiny_net()
    optimizers = two(net)
    updater = rigl(net, optimizers)
    data = batches(5)
    loss_of(net, data[0]).backward()
    with pytest.raises(SparsityError):
        optimizers[1].step()
    for batch in data:
        step(net, optimizers, batch)
    assert (updater.steps, updater.rewirings) == (5, 1)


@pytest.mark.parametrize("weight_step", ["before", "skip"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("overflown", ["conv.weight", "fc.weight", "both"])
def test_a_scaler_that_skips_one_of_two(overflown: str, fused: bool, weight_step: Any) -> None:
    """Such a round is no performed step; a rewiring due on it is done on the next one."""
    net = tiny_net()
    optimizers = two(net, fused=fused)
    updater = rigl(net, optimizers, weight_step=weight_step)
    scaler = GradScaler("cpu", init_scale=2.0**8, growth_interval=1000)
    fresh = fresh_state(lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), net)
    names = ["conv.weight", "fc.weight"] if overflown == "both" else [overflown]
    bad = {3: "ordinary", 5: "due", 6: "due again", 9: "ordinary"}
    performed = 0
    for i, batch in enumerate(batches(14), start=1):
        scaler.scale(loss_of(net, batch)).backward()
        old = masks_of(updater)
        if i in bad:
            for name in names:
                live = updater.topologies[name].mask.nonzero()[3]
                net.get_parameter(name).grad[tuple(live)] = torch.inf
        for one in optimizers:
            scaler.step(one)
        scaler.update()
        for one in optimizers:
            one.zero_grad()
        check_dead(net, optimizers, updater, fresh)
        performed += i not in bad
        assert all(p.isfinite().all() for p in net.parameters())
        if i in bad:
            assert all(torch.equal(old[n], m) for n, m in masks_of(updater).items())
    # A round that ended with the last one skipped closes when the next one begins.
    assert updater.steps == performed == 10
    assert [record.step for record in updater.history] == [4, 8]


def test_overflow_in_a_dense_parameter_alone() -> None:
    net = tiny_net()
    optimizers = two(net)
    updater = rigl(net, optimizers)
    scaler = GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    for i, batch in enumerate(batches(6)):
        scaler.scale(loss_of(net, batch)).backward()
        if i == 3:
            net.norm.bias.grad[0] = torch.nan
        for one in optimizers:
            scaler.step(one)
        scaler.update()
        for one in optimizers:
            one.zero_grad()
    assert (updater.steps, updater.rewirings) == (5, 1)


def test_optimizers_of_other_weights_need_not_be_passed() -> None:
    """A dense head with its own optimizer is none of ours, if it is not selected."""
    net = tiny_net()
    head = torch.optim.SGD(net.head.parameters(), lr=0.1)
    rest = torch.optim.SGD([p for n, p in net.named_parameters() if "head" not in n], lr=0.1)
    updater = rigl(net, rest, select=["conv.weight", "fc.weight", "mid.weight"])
    for batch in batches(5):
        step(net, [head, rest], batch)
    assert (updater.steps, updater.rewirings) == (5, 1)
    assert net.head.weight.detach().all()


def test_two_updaters_on_different_weights() -> None:
    net = tiny_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    still = regrow.static(net, optimizer, sparsity=0.5, select="conv.weight")
    moving = regrow.set_training(
        net, optimizer, sparsity=0.8, select=["fc.weight", "mid.weight"], n_steps=20, interval=4
    )
    first = masks_of(moving)
    for batch in batches(9):
        step(net, optimizer, batch)
    assert (still.steps, moving.steps, moving.rewirings) == (9, 9, 2)
    for updater in (still, moving):
        for name, topology in updater.topologies.items():
            assert not net.get_parameter(name).detach()[~topology.mask].any()
    assert any(not torch.equal(first[n], m) for n, m in masks_of(moving).items())
