import time

import pytest
import torch
from torch import nn

from regrow.nn import layer_inputs, layer_pass, layer_step, least_seconds, step_seconds


class Counted(nn.Module):
    """A layer that records how it is called."""

    def __init__(self, seconds=0.0, calls=None, name=""):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))
        self.seconds, self.calls, self.name = seconds, calls, name

    def forward(self, x):
        if self.calls is not None:
            self.calls.append(self.name)
        time.sleep(self.seconds)
        return x @ self.weight.t()


def test_the_slower_one_takes_longer():
    fast, slow = step_seconds([Counted(), Counted(0.01)], torch.ones(2, 3), rounds=2)
    assert slow > 0.01 > fast


def test_layers_are_timed_in_turn():
    calls = []
    layers = [Counted(calls=calls, name=name) for name in "ab"]
    step_seconds(layers, torch.ones(2, 3), rounds=3)
    # One call each for the shape of the output, one step each untimed, three rounds in turn.
    assert calls == list("ab") + list("ab") + list("ab") * 3


def test_the_least_of_the_rounds_counts():
    waits = iter([0.0, 0.03, 0.0, 0.03])
    (seconds,) = least_seconds(
        [lambda: time.sleep(next(waits))], device=torch.device("cpu"), rounds=3
    )
    assert seconds < 0.02


def test_a_step_leaves_the_layer_and_the_input_as_they_were():
    layer, x = nn.Linear(3, 2), torch.ones(4, 3)
    before = layer.weight.clone()
    layer_step(layer, x)()
    assert layer.weight.grad is None
    assert torch.equal(layer.weight, before)
    assert not x.requires_grad
    assert x.grad is None


def test_a_step_asks_for_all_gradients(monkeypatch):
    asked = []
    original = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda y, of, dy: asked.append(of) or original(y, of, dy)
    )
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(requires_grad=False)
    layer_step(layer, torch.ones(4, 3, requires_grad=True))()
    ((x, weight),) = asked
    assert x.shape == (4, 3)
    assert weight is layer.weight


def test_a_step_asks_for_no_gradient_of_an_input_that_needs_none(monkeypatch):
    asked = []
    original = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda y, of, dy: asked.append(of) or original(y, of, dy)
    )
    layer = nn.Linear(3, 2)
    layer_step(layer, torch.ones(4, 3))()
    assert [list(map(id, one)) for one in asked] == [[id(layer.weight), id(layer.bias)]]


def test_a_step_of_a_frozen_layer_is_its_forward_pass():
    calls = []
    layer = Counted(calls=calls, name="a").requires_grad_(requires_grad=False)
    step = layer_step(layer, torch.ones(2, 3))
    step()
    assert calls == ["a", "a"]


def test_a_forward_pass_has_no_gradient():
    enabled = []

    class Seen(Counted):
        def forward(self, x):
            enabled.append((torch.is_grad_enabled(), x.requires_grad))
            return super().forward(x)

    x = torch.ones(2, 3, requires_grad=True)
    layer_pass(Seen(), x)()
    assert enabled == [(False, False)] * 2
    assert torch.is_grad_enabled()
    assert x.requires_grad


def test_masking_is_part_of_the_step(monkeypatch):
    seen = []
    original = torch.autograd.grad

    def spy(*arguments):
        seen.append(original(*arguments))
        return seen[-1]

    monkeypatch.setattr(torch.autograd, "grad", spy)
    dead = torch.tensor([[True, False, False], [False, False, True]])
    layer_step(nn.Linear(3, 2), torch.ones(4, 3).requires_grad_(), dead={"weight": dead})()
    _, weight, bias = seen[0]
    assert torch.equal(weight == 0, dead)
    assert (bias == 4).all()


def test_inputs_of_each_layer():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))
    unused = nn.Linear(1, 1)
    model.train()
    x = torch.randn(5, 3)
    first, last, none = layer_inputs(model, x, [model[0], model[3], unused])
    assert torch.equal(first, x)
    assert torch.equal(last, model[0](x).relu())  # in evaluation mode: nothing dropped
    assert none is None
    assert model.training
    assert model[2].training
    assert not any(module._forward_pre_hooks for module in model)


def test_hooks_go_when_the_model_fails():
    model = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(RuntimeError):
        layer_inputs(model, torch.ones(2, 5), [model[0]])
    assert not model[0]._forward_pre_hooks
    assert model.training


def test_inputs_require_a_gradient_where_training_computes_one():
    frozen = nn.Linear(3, 4).requires_grad_(requires_grad=False)
    model = nn.Sequential(frozen, nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    layers, x = [model[0], model[2], model[4]], torch.randn(5, 3)

    def needed(*arguments):
        with torch.no_grad():  # the pass is one of training, wherever it is asked for
            return [one.requires_grad for one in layer_inputs(model, *arguments, layers)]

    assert needed(x) == [False, False, True]
    assert needed(x.clone().requires_grad_()) == [True, True, True]
    frozen.requires_grad_()
    assert needed((x,)) == [False, True, True]
    assert not any(one.grad_fn for one in layer_inputs(model, x, layers))


def test_a_layer_called_twice_needs_the_gradient_of_either_input():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(self.layer(x).relu())

    model, x = Twice(), torch.randn(2, 3)
    (found,) = layer_inputs(model, x, [model.layer])
    assert torch.equal(found, x)
    assert found.requires_grad


def test_a_parallel_wrapper_waits_for_no_backward_pass():
    class Wrapper(nn.parallel.DataParallel):
        def forward(self, *inputs):
            raise AssertionError("the wrapper itself ran")

    model = nn.Sequential(nn.Linear(3, 4))
    (found,) = layer_inputs(Wrapper(model), torch.ones(2, 3), [model[0]])
    assert found.shape == (2, 3)
