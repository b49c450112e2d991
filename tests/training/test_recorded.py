"""Dense gradients on demand: beside those of a dense layer, however they are asked for."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv1d, conv2d, conv3d, linear

from regrow.nn import SparseConv1d, SparseConv2d, SparseConv3d, SparseLinear
from regrow.topology import Best, select_top
from regrow.training import _recorded as recorded
from regrow.training._recorded import RecordedGradient


class Owner:
    """Somebody who reads what is kept."""


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def passes_of(layer, inputs):
    """What a layer keeps of one backward pass for each input, and the inputs' gradients."""
    owner = Owner()
    layer.watch(owner)
    for i, x in enumerate(inputs):
        y = layer(x)
        y.backward(normal(*y.shape, seed=10 + i))
    kept = [(layer.grad_rows, x, dy) for x, dy in layer.watched]
    assert len(kept) == len(inputs)
    return kept


def dense_gradient(layer, compute, inputs):
    """By torch, of the weight with its zeros."""
    weight = layer.dense_weight().requires_grad_()
    for i, x in enumerate(inputs):
        y = compute(x, weight)
        y.backward(normal(*y.shape, seed=10 + i))
    return weight.grad


CONV = {"stride": 2, "padding": 1, "dilation": 2}
LAYERS = {
    "linear": (lambda: SparseLinear(9, 7, False, sparsity=0.7, dtype=torch.float64), linear, (9,)),
    "tokens": (
        lambda: SparseLinear(9, 7, False, sparsity=0.7, dtype=torch.float64), linear, (3, 9),
    ),
    "conv1d": (
        lambda: SparseConv1d(4, 6, 3, **CONV, bias=False, sparsity=0.7, dtype=torch.float64),
        lambda x, w: conv1d(x, w, **CONV), (4, 11),
    ),
    "conv2d in groups": (
        lambda: SparseConv2d(
            4, 6, (3, 2), groups=2, bias=False, sparsity=0.6, dtype=torch.float64
        ),
        lambda x, w: conv2d(x, w, groups=2), (4, 6, 5),
    ),
    "same": (
        lambda: SparseConv2d(
            4, 6, (2, 3), padding="same", bias=False, sparsity=0.7, dtype=torch.float64
        ),
        lambda x, w: conv2d(x, w, padding="same"), (4, 6, 5),
    ),
    "circular": (
        lambda: SparseConv2d(
            4, 6, 3, padding=1, padding_mode="circular", bias=False, sparsity=0.7,
            dtype=torch.float64,
        ),
        lambda x, w: conv2d(nn.functional.pad(x, (1, 1, 1, 1), "circular"), w), (4, 6, 5),
    ),
    "conv3d": (
        lambda: SparseConv3d(2, 4, 2, bias=False, sparsity=0.7, dtype=torch.float64),
        conv3d, (2, 4, 3, 3),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # of torch's own
@pytest.mark.parametrize("block", [1, 10, 37, 2**20])
@pytest.mark.parametrize("n_passes", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_the_dense_gradient(name, n_passes, block, monkeypatch):
    monkeypatch.setattr(recorded, "BLOCK", block)
    make, compute, shape = LAYERS[name]
    layer = make()
    inputs = [normal(5, *shape, seed=i) for i in range(n_passes)]
    kept = passes_of(layer, inputs)
    wanted = dense_gradient(layer, compute, inputs).reshape(-1)
    found = RecordedGradient("fc.weight", kept, layer.topology, layer.values.grad)
    every = torch.arange(wanted.numel())
    torch.testing.assert_close(found.at(every), wanted, rtol=0, atol=1e-11)
    order = torch.randperm(wanted.numel(), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.at(order), wanted[order], rtol=0, atol=1e-11)
    assert found.at(every[:0]).shape == (0,)
    torch.testing.assert_close(found.at(every[-1:]), wanted[-1:], rtol=0, atol=1e-11)
    live = layer.topology.indices
    torch.testing.assert_close(found.at(live), layer.values.grad, rtol=0, atol=1e-11)
    n = wanted.numel()
    for low, high in ((0, n), (1, n - 1), (n // 2, n // 2 + 1), (0, 1), (n - 1, n)):
        some = found.between(low, high)
        torch.testing.assert_close(some, wanted[low:high], rtol=0, atol=1e-11)


def test_input_without_a_batch_dimension():
    for name in ("linear", "conv2d in groups"):
        make, compute, shape = LAYERS[name]
        layer, x = make(), normal(*shape)
        found = RecordedGradient(
            "fc.weight", passes_of(layer, [x]), layer.topology, layer.values.grad
        )
        wanted = dense_gradient(layer, compute, [x]).reshape(-1)
        got = found.at(torch.arange(wanted.numel()))
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("factor", [1.0, 1e-4, 65536.0, -2.0, 1 + 1e-6])
def test_what_the_loop_did_to_grad_is_taken_over(factor):
    make, compute, shape = LAYERS["linear"]
    layer, x = make(), normal(5, *shape)
    kept = passes_of(layer, [x])
    wanted = factor * dense_gradient(layer, compute, [x]).reshape(-1)
    layer.values.grad.mul_(factor)
    found = RecordedGradient("fc.weight", kept, layer.topology, layer.values.grad)
    every = torch.arange(wanted.numel())
    torch.testing.assert_close(found.at(every), wanted, rtol=1e-9, atol=1e-11)
    scaled = RecordedGradient(
        "fc.weight", kept, layer.topology, layer.values.grad, scale=torch.tensor(8.0)
    )
    torch.testing.assert_close(scaled.at(every), wanted / 8, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "change",
    [
        lambda grad: grad.clamp_(-0.1, 0.1),
        lambda grad: grad.add_(normal(*grad.shape, seed=9)),
        lambda grad: grad.mul_(torch.linspace(1, 2, grad.numel(), dtype=torch.float64)),
    ],
    ids=["clipped by value", "penalty", "factors"],
)
def test_what_is_no_factor_is_told(change, caplog):
    """Growth would rank by another gradient than the optimizer's."""
    make, _, shape = LAYERS["linear"]
    layer = make()
    kept = passes_of(layer, [normal(5, *shape)])
    with caplog.at_level("WARNING"):
        RecordedGradient("fc.weight", kept, layer.topology, layer.values.grad)
    assert not caplog.records
    change(layer.values.grad)
    with caplog.at_level("WARNING"):
        RecordedGradient("fc.weight", kept, layer.topology, layer.values.grad)
    assert "fc.weight" in caplog.text


def test_clipping_by_value_leaves_the_order_of_what_grows():
    """Most entries are below the bound: their factor, one, is that of all."""
    make, compute, shape = LAYERS["linear"]
    layer, x = make(), normal(5, *shape)
    kept = passes_of(layer, [x])
    wanted = dense_gradient(layer, compute, [x]).reshape(-1)
    bound = float(layer.values.grad.abs().quantile(0.8))
    layer.values.grad.clamp_(-bound, bound)
    found = RecordedGradient("fc.weight", kept, layer.topology, layer.values.grad)
    got = found.at(torch.arange(wanted.numel()))
    assert torch.equal(got.abs().argsort(), wanted.abs().argsort())


def test_a_gradient_of_zeros_and_a_layer_without_connections():
    layer = LAYERS["linear"][0]()
    kept = passes_of(layer, [torch.zeros(5, 9, dtype=torch.float64)])
    found = RecordedGradient("fc.weight", kept, layer.topology, layer.values.grad)
    assert not found.at(torch.arange(63)).any()
    empty = SparseLinear(9, 7, False, sparsity=0.999, dtype=torch.float64)
    assert empty.nnz == 0
    x = normal(5, 9)
    found = RecordedGradient("fc.weight", passes_of(empty, [x]), empty.topology, empty.values.grad)
    wanted = dense_gradient(empty, linear, [x]).reshape(-1)
    torch.testing.assert_close(found.at(torch.arange(63)), wanted, rtol=0, atol=1e-11)


def test_bfloat16_is_summed_wide():
    """In bfloat16 a sum of 4000 products of one would end at 256."""
    layer = SparseLinear(3, 2, False, sparsity=0.5, dtype=torch.bfloat16)
    owner = Owner()
    layer.watch(owner)
    layer(torch.ones(4000, 3, dtype=torch.bfloat16)).sum().backward()
    ((x, dy),) = layer.watched
    rows = layer.grad_rows(x, dy, 0, 2)
    assert rows.dtype == torch.float32
    assert torch.equal(rows, torch.full((2, 3), 4000.0))


def test_rows_of_one_block_only(monkeypatch):
    """No more rows at a time than asked for, and none that hold nothing asked for."""
    monkeypatch.setattr(recorded, "BLOCK", 4 * 10)
    asked = []

    def rows(x, dy, first, last):
        asked.append((first, last))
        return torch.zeros(last - first, 10)

    layer = SparseLinear(10, 100, False, sparsity=0.9)
    grad = torch.zeros(layer.nnz)
    found = RecordedGradient("fc.weight", [(rows, None, grad)], layer.topology, grad)
    asked.clear()
    found.at(torch.tensor([5, 12, 507, 999]))  # few: row by row
    assert asked == [(0, 1), (1, 2), (50, 51), (99, 100)]
    asked.clear()
    found.at(torch.arange(5, 400))
    assert asked == [(low, low + 4) for low in range(0, 40, 4)]


# -- the best of several blocks ------------------------------------------------------------------

scores_of = st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0, math.nan, math.inf]), max_size=60)


@settings(max_examples=60)
@given(scores_of, st.data())
def test_the_best_of_blocks_are_those_of_all(scores, data):
    """Ties and NaN included, wherever the blocks end."""
    scores = torch.tensor(scores, dtype=torch.float64)
    n = scores.numel()
    k = data.draw(st.integers(0, n))
    units = torch.arange(n) * 3
    best = Best(k, device=torch.device("cpu"))
    ends = sorted(data.draw(st.lists(st.integers(0, n), max_size=6)))
    for low, high in zip([0, *ends], [*ends, n], strict=True):
        best.offer(units[low:high], scores[low:high], None)
    assert torch.equal(best.units(), units[select_top(scores, None, k)])


@settings(max_examples=60)
@given(scores_of, st.data())
def test_the_best_of_every_group(scores, data):
    scores = torch.tensor(scores, dtype=torch.float64)
    n = scores.numel()
    groups = torch.tensor(
        data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), dtype=torch.int64
    )
    sizes = torch.bincount(groups, minlength=4).tolist()
    k = torch.tensor([data.draw(st.integers(0, size)) for size in sizes])
    units = torch.arange(n)
    best = Best(k, device=torch.device("cpu"))
    ends = sorted(data.draw(st.lists(st.integers(0, n), max_size=6)))
    for low, high in zip([0, *ends], [*ends, n], strict=True):
        best.offer(units[low:high], scores[low:high], groups[low:high])
    assert torch.equal(best.units(), units[select_top(scores, groups, k)])


def test_fewer_than_asked_for():
    best = Best(3, device=torch.device("cpu"))
    best.offer(torch.arange(2), torch.zeros(2), None)
    with pytest.raises(ValueError, match="cannot select 3 of 2"):
        best.units()
