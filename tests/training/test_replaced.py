"""Parameters that are replaced after the call: noticed, and not silently dense."""

import gc
from typing import Any

import pytest
import torch
from tiny_cases import batches, loss_of, step, tiny_net
from torch import nn

import regrow
from regrow.errors import SparsityError


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def test_a_parameter_replaced_by_assign_raises_at_the_next_forward() -> None:
    net = tiny_net()
    optimizer = sgd(net.parameters())
    regrow.static(net, optimizer, sparsity=0.5)
    data = batches(3)
    step(net, optimizer, data[0])
    net.load_state_dict({n: v.clone() for n, v in net.state_dict().items()}, assign=False)
    step(net, optimizer, data[1])
    net.load_state_dict({n: v.clone() for n, v in net.state_dict().items()}, assign=True)
    with pytest.raises(SparsityError, match=r"'conv\.weight' was replaced.*load_state_dict"):
        net(data[2][0])


def test_a_replaced_module_or_attribute_raises_at_the_next_forward() -> None:
    for change in (
        lambda net: setattr(net.fc, "weight", nn.Parameter(torch.zeros(16, 128))),
        lambda net: setattr(net, "fc", nn.Linear(128, 16)),
    ):
        net = tiny_net()
        regrow.static(net, sgd(net.parameters()), sparsity=0.5)
        change(net)
        with pytest.raises(SparsityError, match=r"'fc\.weight' was replaced"):
            net(batches(1)[0][0])


def test_moving_a_model_to_another_dtype_is_no_replacement() -> None:
    net = tiny_net()
    optimizer = sgd(net.parameters())
    updater = regrow.static(net, optimizer, sparsity=0.5)
    net.double().to(memory_format=torch.contiguous_format)
    for batch in batches(3, dtype=torch.float64):
        step(net, optimizer, batch)
    assert updater.steps == 3
    for name, topology in updater.topologies.items():
        assert not net.get_parameter(name).detach()[~topology.mask].any()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at it
@pytest.mark.parametrize("backend", ["eager"])
def test_a_part_that_is_wrapped_after_the_call_is_no_replacement(backend: str) -> None:
    """Regional compilation and wrappers move a module; its parameter is the same."""

    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    for wrap in (lambda part: torch.compile(part, backend=backend), Wrapper):
        net = tiny_net()
        optimizer = sgd(net.parameters())
        updater = regrow.static(net, optimizer, sparsity=0.5)
        net.mid = wrap(net.mid)
        for batch in batches(2):
            step(net, optimizer, batch)
        assert updater.steps == 2
        assert not net.fc.weight.detach()[~updater.topologies["fc.weight"].mask].any()


def test_a_model_whose_optimizer_is_gone_is_guarded_until_the_next_call() -> None:
    """The case of sharding after the call: a new optimizer, and the old one forgotten."""
    net = tiny_net()
    regrow.static(net, sgd(net.parameters()), sparsity=0.5)
    gc.collect()
    net.load_state_dict({n: v.clone() for n, v in net.state_dict().items()}, assign=True)
    with pytest.raises(SparsityError, match="was replaced"):
        net(batches(1)[0][0])
    regrow.static(net, sgd(net.parameters()), sparsity=0.5)
    net(batches(1)[0][0])


@pytest.mark.parametrize("make", [sgd, lambda p: torch.optim.AdamW(p, lr=1e-2)])
def test_a_model_loaded_without_its_updater_is_refused_at_the_next_step(make: Any) -> None:
    """Silence would zero every loaded weight outside the topology drawn anew."""
    net, other = tiny_net(), tiny_net(seed=1)
    regrow.static(other, make(other.parameters()), sparsity=0.5, seed=3)
    optimizer = make(net.parameters())
    updater = regrow.static(net, optimizer, sparsity=0.5, seed=4)
    step(net, optimizer, batches(1)[0])
    net.load_state_dict(other.state_dict())
    loaded = {name: value.clone() for name, value in net.state_dict().items()}
    loss_of(net, batches(1)[0]).backward()
    with pytest.raises(SparsityError, match=r"outside its topology are not zero.*load the updater"):
        optimizer.step()
    assert updater.steps == 1
    assert all(torch.equal(value, loaded[name]) for name, value in net.state_dict().items())


def test_a_model_loaded_with_its_updater_in_any_order_goes_on() -> None:
    for updater_first in (True, False):
        net, other = tiny_net(), tiny_net(seed=1)
        theirs = regrow.static(other, sgd(other.parameters()), sparsity=0.5, seed=3)
        optimizer = sgd(net.parameters())
        updater = regrow.static(net, optimizer, sparsity=0.5, seed=4)
        if updater_first:
            updater.load_state_dict(theirs.state_dict())
        net.load_state_dict(other.state_dict())
        if not updater_first:
            updater.load_state_dict(theirs.state_dict())
        step(net, optimizer, batches(1)[0])
        assert updater.steps == 1


def test_weights_written_inside_the_topology_are_no_matter() -> None:
    net = tiny_net()
    optimizer = sgd(net.parameters())
    updater = regrow.static(net, optimizer, sparsity=0.5)
    with torch.no_grad():
        net.fc.weight.mul_(0.5)  # dead entries stay zero
    step(net, optimizer, batches(1)[0])
    assert updater.steps == 1


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimisation in short: weights move for the closure, and come back."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(list(parameters), {"lr": 0.1})

    def step(self, closure: Any) -> None:
        moved = []
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                moved.append((p, p.detach().clone()))
                p.add_(0.01 * p.grad)
                p.grad = None
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            for p, before in moved:
                p.copy_(before)
                if p.grad is not None:
                    p.sub_(0.1 * p.grad)


@pytest.mark.parametrize("weight_step", ["before", "skip"])
def test_an_optimizer_that_moves_weights_for_its_closure(weight_step: Any) -> None:
    net = tiny_net()
    optimizer = Sam(net.parameters())
    updater = regrow.rigl(
        net, optimizer, sparsity=0.5, n_steps=12, interval=2, weight_step=weight_step
    )
    for batch in batches(10):
        optimizer.zero_grad()
        loss_of(net, batch).backward()  # dense where a rewiring is due

        def closure(batch: Any = batch) -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(net, batch)
            loss.backward()
            return loss

        optimizer.step(closure)
    assert updater.steps == 10
    assert updater.rewirings == 4
    for name, topology in updater.topologies.items():
        assert not net.get_parameter(name).detach()[~topology.mask].any()
