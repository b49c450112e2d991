"""What a rewiring does to the weights: before the step, after it, or in its place."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_cases import (
    MORE_OPTIMIZERS,
    OPTIMIZERS,
    as_list,
    batches,
    loss_of,
    masks_of,
    step,
    tiny_net,
)
from torch import Tensor, nn

import regrow

F64 = torch.float64
ALL = {**OPTIMIZERS, **MORE_OPTIMIZERS}


def rigl(net: nn.Module, optimizer: Any, **options: Any) -> regrow.TopologyUpdater:
    return regrow.rigl(net, optimizer, sparsity=0.7, n_steps=16, interval=3, **options)


@pytest.mark.parametrize("optimizer_name", list(ALL))
def test_skip_moves_nothing(optimizer_name: str) -> None:
    """No weight decay, no momentum, no bias, no state: the rewiring takes the step's place."""
    net = tiny_net()
    optimizer = ALL[optimizer_name](net.parameters())
    updater = rigl(net, optimizer, weight_step="skip", regrow="never")
    data = batches(4)
    for batch in data[:2]:
        step(net, optimizer, batch)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    state = {
        n: {k: v.clone() for k, v in _state_of(optimizer, p).items() if torch.is_tensor(v)}
        for n, p in net.named_parameters()
    }
    old = masks_of(updater)
    step(net, optimizer, data[2])
    assert updater.rewirings == 1
    assert (updater.steps, updater.weight_steps) == (3, 2)
    for name, parameter in net.named_parameters():
        stays = torch.ones_like(parameter, dtype=torch.bool)
        if name in updater.topologies:
            stays = old[name] & updater.topologies[name].mask
        assert torch.equal(parameter.detach()[stays], before[name][stays]), name
        now = _state_of(optimizer, parameter)
        for key, value in state[name].items():
            if value.shape == parameter.shape:
                assert torch.equal(now[key][stays], value[stays]), (name, key)
            else:
                assert torch.equal(now[key], value), (name, key)
    step(net, optimizer, data[3])
    assert all(not torch.equal(p, before[n]) for n, p in net.named_parameters())


def _state_of(optimizer: Any, parameter: nn.Parameter) -> dict[str, Any]:
    return next((o.state[parameter] for o in as_list(optimizer) if parameter in o.state), {})


def one_due_step(
    weight_step: Any, optimizer_of: Callable[..., torch.optim.Optimizer], **options: Any
) -> tuple[Any, ...]:
    """The third step, on which a rewiring is due: what was before, the gradient, what is after."""
    net = tiny_net(dtype=F64)
    optimizer = optimizer_of(net.parameters())
    updater = rigl(net, optimizer, weight_step=weight_step, **options)
    data = batches(3, dtype=F64)
    for batch in data[:2]:
        step(net, optimizer, batch)
    old, weights = masks_of(updater), {n: p.detach().clone() for n, p in net.named_parameters()}
    loss_of(net, data[2]).backward()
    grads = {n: p.grad.clone() for n, p in net.named_parameters()}
    optimizer.step()
    return (
        old,
        masks_of(updater),
        weights,
        grads,
        {n: p.detach() for n, p in net.named_parameters()},
    )


def plain_sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.5)


def test_before_steps_first_then_drops_by_the_new_weights() -> None:
    old, new, weights, grads, after = one_due_step("before", plain_sgd, regrow="never")
    n_dropped = 0
    for name, mask in old.items():
        stepped = (weights[name] - 0.5 * grads[name]) * mask
        kept = mask & new[name]
        torch.testing.assert_close(after[name][kept], stepped[kept], rtol=0, atol=0)
        grown, dropped = new[name] & ~mask, mask & ~new[name]
        assert not after[name][grown].any(), "a grown weight starts at zero"
        if dropped.any():
            assert stepped[dropped].abs().max() <= stepped[kept].abs().min()
            n_dropped += int(dropped.sum())
        check_growth(grads[name], grown, ~mask)
    assert n_dropped > 50
    bias = "fc.bias"
    torch.testing.assert_close(after[bias], weights[bias] - 0.5 * grads[bias], rtol=0, atol=0)


def test_after_rewires_first_then_grown_weights_step() -> None:
    old, new, weights, grads, after = one_due_step("after", plain_sgd, regrow="never")
    n_grown = 0
    for name, mask in old.items():
        kept, grown, dropped = mask & new[name], new[name] & ~mask, mask & ~new[name]
        stepped = (weights[name] * mask - 0.5 * grads[name]) * new[name]
        torch.testing.assert_close(after[name], stepped, rtol=0, atol=0)
        if dropped.any():
            assert weights[name][dropped].abs().max() <= weights[name][kept].abs().min()
        check_growth(grads[name], grown, ~mask)
        n_grown += int(grown.sum())
    assert n_grown > 50


def test_after_steps_what_starts_again_too() -> None:
    """Dropped and chosen again at once: from zero, by this step's gradient, like any grown one."""
    old, new, weights, grads, after = one_due_step(
        "after", plain_sgd, regrow="zero", drop_fraction=0.9
    )
    n_again = 0
    for name, mask in old.items():
        if mask.all():  # nothing is free, so nothing is replaced
            assert torch.equal(new[name], mask)
            continue
        kept = mask & new[name]
        n_kept = int(mask.sum()) - int(
            0.9 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * 3 / 12))) * int(mask.sum()) + 1e-9
        )
        order = (weights[name].abs() * mask).flatten().argsort(descending=True, stable=True)
        survivors = torch.zeros_like(mask).flatten()
        survivors[order[:n_kept]] = True
        again = kept & ~survivors.view(mask.shape)
        torch.testing.assert_close(after[name][again], -0.5 * grads[name][again], rtol=0, atol=0)
        n_again += int(again.sum())
    assert n_again > 5


def test_skip_drops_by_the_old_weights() -> None:
    old, new, weights, grads, after = one_due_step("skip", plain_sgd, regrow="never")
    for name, mask in old.items():
        kept, grown, dropped = mask & new[name], new[name] & ~mask, mask & ~new[name]
        assert torch.equal(after[name][kept], weights[name][kept])
        assert not after[name][grown].any()
        if dropped.any():
            assert weights[name][dropped].abs().max() <= weights[name][kept].abs().min()
        check_growth(grads[name], grown, ~mask)
    assert torch.equal(after["fc.bias"], weights["fc.bias"])


def check_growth(grad: Tensor, grown: Tensor, free: Tensor) -> None:
    """What was grown has the largest dense gradients among what was free."""
    left = free & ~grown
    if grown.any() and left.any():
        assert grad.abs()[grown].min() >= grad.abs()[left].max()


def test_momentum_of_a_kept_weight_survives_and_of_a_grown_one_is_fresh() -> None:
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = rigl(net, optimizer, weight_step="skip")
    data = batches(3)
    for batch in data[:2]:
        step(net, optimizer, batch)
    old = masks_of(updater)
    buffers = {n: optimizer.state[net.get_parameter(n)]["momentum_buffer"].clone() for n in old}
    step(net, optimizer, data[2])
    for name, buffer in buffers.items():
        now = optimizer.state[net.get_parameter(name)]["momentum_buffer"]
        new = updater.topologies[name].mask
        kept = old[name] & new
        assert torch.equal(now[kept], buffer[kept])
        assert not now[~kept].any()
        assert buffer[old[name] & ~new].any() or torch.equal(old[name], new)
