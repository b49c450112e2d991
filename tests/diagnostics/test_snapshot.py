"""What is put back is the same object with the same bits."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from regrow.diagnostics._snapshot import Snapshot


def same_bits(a, b):
    return a.detach().numpy().tobytes() == b.detach().numpy().tobytes()


def test_values_that_compare_equal_or_unequal_to_themselves():
    tensor = torch.tensor([0.0, -0.0, float("nan"), float("inf"), 1e-45])
    kept, snapshot = tensor.clone(), Snapshot()
    snapshot.add_tensor(tensor)
    for _ in range(2):
        tensor.fill_(0.0)
        snapshot.restore()
        assert same_bits(tensor, kept)


@pytest.mark.parametrize("had_grad", [True, False])
@pytest.mark.parametrize("change", ["zero", "none", "new"])
def test_grads_come_back_as_they_were(had_grad, change):
    parameter = nn.Parameter(torch.ones(3))
    grad = torch.arange(3.0) if had_grad else None
    parameter.grad = grad
    snapshot = Snapshot()
    snapshot.add_tensor(parameter)
    if change == "new":
        parameter.grad = torch.ones(3)
    elif change == "none":
        parameter.grad = None
    elif had_grad:
        grad.zero_()
    parameter.requires_grad_(False)
    parameter.data = torch.zeros(3)
    snapshot.restore()
    assert parameter.requires_grad
    assert parameter.tolist() == [1, 1, 1]
    assert parameter.grad is grad
    assert grad is None or grad.tolist() == [0, 1, 2]


class Odd(nn.Module):
    """Buffers that are no state, an expanded one, a child, and state that is no tensor."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.register_buffer("counter", torch.zeros(1), persistent=False)
        self.register_buffer("nothing", None)
        self.register_buffer("expanded", torch.ones(1).expand(4))
        self.extra = {"seen": 0}

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


def test_a_module_comes_back_whole():
    net = Odd()
    weight, values, snapshot = net.fc.weight, net.fc.weight.detach().clone(), Snapshot()
    snapshot.add(net)
    net.eval()
    net.counter += 1
    net.nothing = torch.ones(2)
    net.expanded = torch.zeros(4)
    net.extra["seen"] = 7
    net.fc.weight = nn.Parameter(torch.zeros(3, 3))
    net.fc.weight.requires_grad_(False)
    net.fc.register_parameter("more", nn.Parameter(torch.ones(1)))
    net.late = nn.Linear(2, 2)
    with torch.no_grad():
        weight.zero_()
    snapshot.restore()
    assert net.training
    assert net.fc.training
    assert net.counter.item() == 0
    assert net.nothing is None
    assert net.expanded.tolist() == [1, 1, 1, 1]
    assert net.extra == {"seen": 0}
    assert net.fc.weight is weight
    assert same_bits(weight, values)
    assert [name for name, _ in net.named_parameters()] == ["fc.weight", "fc.bias"]


def test_memory_format_and_expanded_buffers_survive():
    weight = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    expanded = torch.ones(1).expand(4)
    kept, stride, snapshot = weight.detach().clone(), weight.stride(), Snapshot()
    snapshot.add_tensor(weight)
    snapshot.add_tensor(expanded)
    weight.data = torch.zeros(4, 3, 2, 2).to(memory_format=torch.channels_last)
    snapshot.restore()
    assert weight.stride() == stride
    assert same_bits(weight, kept)
    assert expanded.stride() == (0,)
    expanded.data = torch.zeros(4)
    snapshot.restore()
    assert expanded.tolist() == [1, 1, 1, 1]


class Keeps:
    """Something in an optimizer's state that is neither tensor nor list."""

    def __init__(self):
        self.rows = [1, 2]


def test_an_optimizer_comes_back_whole():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([a], lr=torch.tensor(0.1), momentum=0.9)
    buffer, lr = torch.ones(2), optimizer.param_groups[0]["lr"]
    optimizer.state[a] = {"momentum_buffer": buffer, "list": [torch.ones(1), 3], "own": Keeps()}
    snapshot = Snapshot()
    snapshot.add(optimizer)
    for _ in range(2):
        buffer.zero_()
        lr.zero_()
        optimizer.state[a]["list"][0].zero_()
        optimizer.state[a]["list"].append(4)
        optimizer.state[a]["own"].rows.append(3)
        optimizer.state[a]["new"] = 1
        optimizer.state[b]["momentum_buffer"] = torch.ones(2)
        optimizer.param_groups[0]["momentum"] = 0.0
        optimizer.add_param_group({"params": [b]})
        optimizer.grad_scale = torch.ones(1)
        optimizer.defaults = {}
        snapshot.restore()
        state = optimizer.state[a]
        assert list(optimizer.state) == [a]
        assert list(state) == ["momentum_buffer", "list", "own"]
        assert state["momentum_buffer"] is buffer
        assert buffer.tolist() == [1, 1]
        assert [float(x) for x in state["list"]] == [1, 3]
        assert state["own"].rows == [1, 2]
        (group,) = optimizer.param_groups
        assert group["lr"] is lr
        assert lr.item() == pytest.approx(0.1)
        assert group["momentum"] == 0.9
        assert not hasattr(optimizer, "grad_scale")
        assert optimizer.defaults["momentum"] == 0.9


def test_a_scaler_in_mid_step_comes_back():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scaler, snapshot = torch.amp.GradScaler("cpu"), Snapshot()
    snapshot.add(scaler)
    scaler.scale(parameter.sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already been called"):
        scaler.unscale_(optimizer)
    snapshot.restore()
    assert scaler._scale is None
    scaler.scale(parameter.sum()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()


def test_what_has_a_state_is_loaded_and_not_aliased():
    class Counter:
        def __init__(self):
            self.seen = [1]

        def state_dict(self):
            return {"seen": self.seen}

        def load_state_dict(self, state):
            self.seen = state["seen"]

    counter, snapshot = Counter(), Snapshot()
    snapshot.add(counter)
    for _ in range(2):
        counter.seen.append(2)
        snapshot.restore()
        assert counter.seen == [1]


def test_every_global_generator_comes_back():
    snapshot = Snapshot()
    snapshot.add_random_state()

    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002

    first = draw()
    assert draw() != first
    snapshot.restore()
    assert draw() == first


def test_without_grads_they_are_left_alone():
    parameter = nn.Parameter(torch.ones(2))
    snapshot = Snapshot(grads=False)
    snapshot.add_tensor(parameter)
    parameter.grad = torch.ones(2)
    parameter.data.zero_()
    snapshot.restore()
    assert parameter.tolist() == [1, 1]
    assert parameter.grad.tolist() == [1, 1]
