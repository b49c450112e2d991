"""torch.compile: one graph, equal values, no second compilation, the layout found once."""

import pytest
import torch
from torch import nn

from regrow.ops import (
    CSR,
    available_backends,
    product,
    sampled_product,
    sparse_linear,
    transposed_product,
)
from regrow.ops import _layout as layouts
from regrow.topology import Topology

BACKENDS = ("auto", *available_backends("cpu", torch.float32))


class Layer(nn.Module):
    def __init__(self, n_out, n_in, backend, seed=0):
        super().__init__()
        self.backend = backend
        self.grow(n_out, n_in, seed)
        self.bias = nn.Parameter(torch.ones(n_out))

    def grow(self, n_out, n_in, seed):
        generator = torch.Generator().manual_seed(seed)
        mask = torch.rand(n_out, n_in, generator=generator) > 0.6
        self.layout = CSR.of(Topology.from_mask(mask))
        self.values = nn.Parameter(torch.randn(self.layout.nnz, generator=generator))

    def forward(self, x):
        return sparse_linear(self.values, self.layout, x, bias=self.bias, backend=self.backend)


def step(model, function, x, dy):
    model.zero_grad()
    x = x.clone().requires_grad_()
    y = function(x)
    y.backward(dy)
    return [y.detach(), x.grad, *(p.grad.clone() for p in model.parameters())]


@pytest.fixture
def compiled():
    """(model) -> its compiled form, and how often it was compiled; no compiler of C needed."""
    torch.compiler.reset()
    count = []

    def backend(graph, inputs):
        count.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    yield (lambda model: torch.compile(model, fullgraph=True, backend=backend)), count
    torch.compiler.reset()


def assert_steps(model, function, n_in, n_out, *, n=3):
    for seed in range(n):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(16, n_in, generator=generator)
        dy = torch.randn(16, n_out, generator=generator)
        for found, expected in zip(
            step(model, function, x, dy), step(model, model, x, dy), strict=True
        ):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_graph_for_all_steps(compiled, monkeypatch, backend):
    compile_, count = compiled
    forms = []
    real = layouts.new_column_form
    monkeypatch.setattr(layouts, "new_column_form", lambda *a: (forms.append(a), real(*a))[1])
    model = nn.Sequential(Layer(20, 30, backend), nn.ReLU(), Layer(10, 20, backend))
    function = compile_(model)
    assert_steps(model, function, 30, 10)
    assert len(count) == 1
    # One for each layer, shared with the passes that were not compiled.
    assert len(forms) == 2
    with torch.no_grad():
        x = torch.randn(16, 30)
        torch.testing.assert_close(function(x), model(x))


def test_another_layout_is_taken_up(compiled):
    compile_, _ = compiled
    model = Layer(20, 30, "auto")
    function = compile_(model)
    assert_steps(model, function, 30, 20, n=1)
    model.grow(20, 30, 1)
    assert_steps(model, function, 30, 20, n=2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_other_operations(compiled, backend):
    compile_, _ = compiled
    layer = Layer(20, 30, backend)
    layout, values = layer.layout, layer.values.detach()
    x, dy = torch.randn(5, 30), torch.randn(5, 20)

    def all_of_them(values, x, dy):
        return (
            product(values, layout, x, backend=backend),
            transposed_product(values, layout, dy, backend=backend),
            sampled_product(layout, dy, x, backend=backend),
        )

    for found, expected in zip(
        compile_(all_of_them)(values, x, dy), all_of_them(values, x, dy), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_an_unknown_back_end_is_told(compiled):
    compile_, _ = compiled
    with pytest.raises(Exception, match="backend must be one of"):
        compile_(Layer(4, 5, "mkl"))(torch.ones(2, 5))
