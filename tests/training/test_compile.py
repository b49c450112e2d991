"""``torch.compile`` of the model: one graph, whatever is rewired."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tiny_cases import METHODS, OPTIMIZERS, batches, masks_of, same, snapshot, step, tiny_net
from torch import nn

import regrow
from regrow.errors import SparsityError

Compiled = Callable[[nn.Module], nn.Module]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch._dynamo.reset()


def build(how: str, backend: str, method: str = "rigl") -> tuple[nn.Module, nn.Module, Any, Any]:
    """Net, what is called, optimizer, updater; compiled before or after the method, or in place."""
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    if how == "before":
        model = torch.compile(net, backend=backend, fullgraph=True)
        return net, model, optimizer, METHODS[method](model, optimizer, seed=5)
    updater = METHODS[method](net, optimizer, seed=5)
    if how == "in place":
        net.compile(backend=backend, fullgraph=True)
        return net, net, optimizer, updater
    return net, torch.compile(net, backend=backend, fullgraph=True), optimizer, updater


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("how", ["before", "after", "in place"])
def test_rewiring_does_not_recompile(how: str, backend: str) -> None:
    net, model, optimizer, updater = build(how, backend)
    first = masks_of(updater)
    data = batches(14)
    for batch in data:
        step(model, optimizer, batch)
    assert updater.rewirings == 3
    assert any(not torch.equal(first[n], m) for n, m in masks_of(updater).items())
    stats = torch._dynamo.utils.counters["stats"]
    assert stats["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    assert list(updater.topologies) == ["conv.weight", "fc.weight", "mid.weight", "head.weight"]

    plain = tiny_net()
    optimizer_of_plain = OPTIMIZERS["sgd"](plain.parameters())
    reference = METHODS["rigl"](plain, optimizer_of_plain, seed=5)
    for batch in data:
        step(plain, optimizer_of_plain, batch)
    assert dict(reference.topologies) == dict(updater.topologies)
    if backend == "eager":
        assert same(snapshot(plain, optimizer_of_plain), snapshot(net, optimizer))


def test_a_state_goes_from_compiled_to_plain() -> None:
    _, model, optimizer, updater = build("before", "eager", "set")
    for batch in batches(5):
        step(model, optimizer, batch)
    plain = tiny_net(seed=3)
    other = METHODS["set"](plain, OPTIMIZERS["sgd"](plain.parameters()), seed=6)
    other.load_state_dict(updater.state_dict())
    assert dict(other.topologies) == dict(updater.topologies)


@pytest.mark.parametrize("how", ["before", "after", "in place"])
def test_a_replaced_parameter_is_noticed_in_a_compiled_model(how: str) -> None:
    net, model, optimizer, _ = build(how, "eager")
    data = batches(3)
    step(model, optimizer, data[0])
    net.load_state_dict({n: v.clone() for n, v in net.state_dict().items()}, assign=True)
    with (
        torch._dynamo.config.patch(error_on_recompile=False),
        pytest.raises(SparsityError, match=r"'conv\.weight' was replaced"),
    ):
        # In the forward pass, or at the latest where nothing sparse would be stepped any more.
        step(model, optimizer, data[1])


def test_a_compiled_loss_with_the_model_inside() -> None:
    """The forward hook is part of the graph where the model is called from a compiled function."""
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = regrow.rigl(net, optimizer, sparsity=0.7, n_steps=12, interval=3)

    @torch.compile(backend="eager", fullgraph=True)
    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(net(x), y)

    for x, y in batches(8):
        loss(x, y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert updater.rewirings == 2
