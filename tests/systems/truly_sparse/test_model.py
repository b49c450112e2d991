"""sparse_mlp: counts, first values, order of modules."""

import pytest
import torch
from torch import nn

from regrow.nn import SparseLinear
from regrow.systems.truly_sparse import AllReLU, SeededDropout, hidden_weights, sparse_mlp


def layers_of(net):
    return [module for module in net if isinstance(module, SparseLinear)]


def test_connections_are_those_of_erdos_renyi():
    net = sparse_mlp((784, 1000, 1000, 1000, 10), epsilon=20)
    assert [layer.nnz for layer in layers_of(net)] == [20 * 1784, 40_000, 40_000, 10_000]
    narrow = sparse_mlp((50, 40, 30), epsilon=3)
    assert [layer.nnz for layer in layers_of(narrow)] == [270, 210]


def test_modules_in_their_order():
    net = sparse_mlp((9, 8, 7, 6, 5), slope=0.75, dropout=0.2)
    kinds = [type(module) for module in net]
    assert kinds == [SparseLinear, AllReLU, SeededDropout] * 3 + [SparseLinear]
    found = [m for m in net if isinstance(m, AllReLU)]
    assert [m.layer for m in found] == [1, 2, 3]
    assert {m.slope for m in found} == {0.75}
    relu = sparse_mlp((9, 8, 5), activation="relu")
    assert [type(module) for module in relu] == [SparseLinear, nn.ReLU, SparseLinear]
    assert hidden_weights(net) == ["0.weight", "3.weight", "6.weight"]


@pytest.mark.parametrize(("activation", "negative"), [("relu", 0.0), ("all_relu", 0.5)])
def test_first_values(activation, negative):
    net = sparse_mlp((300, 400, 10), epsilon=6, activation=activation, slope=0.5)
    for layer, variance in zip(layers_of(net), (2 / (1 + negative**2), 1 / 3), strict=True):
        row_ptr, _ = layer.topology.csr
        k = row_ptr.diff().repeat_interleave(row_ptr.diff())
        scaled = layer.values.detach() * k.sqrt()
        assert scaled.abs().max() <= (3 * variance) ** 0.5 * (1 + 1e-6)
        assert scaled.var().item() == pytest.approx(variance, rel=0.06)
        assert layer.bias.count_nonzero() == 0


def test_signals_neither_fade_nor_grow():
    for activation in ("relu", "all_relu"):
        net = sparse_mlp((1000,) * 6 + (10,), epsilon=5, activation=activation, seed=1)
        x = torch.randn(64, 1000)
        moment = net[:10](x).square().mean().item()
        assert 0.3 < moment < 3


def test_seeds():
    a, b, c = (sparse_mlp((30, 30, 30, 3), epsilon=2, seed=seed) for seed in (1, 1, 2))
    for key, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[key])
    assert a[0].topology != c[0].topology
    first, second = a[0], a[2]
    assert first.topology != second.topology
    state = torch.get_rng_state()
    sparse_mlp((30, 30, 3))
    assert torch.equal(torch.get_rng_state(), state)


def test_dtype():
    assert {p.dtype for p in sparse_mlp((4, 4, 4), dtype=torch.float64).parameters()} == {
        torch.float64
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": (4, 2)}, "sizes"),
        ({"sizes": 4}, "sizes"),
        ({"sizes": (4, 0, 2)}, "size"),
        ({"activation": "srelu"}, "activation"),
        ({"slope": -1}, "slope"),
        ({"dropout": 1.0}, "dropout"),
        ({"epsilon": 0}, "epsilon"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        sparse_mlp(**({"sizes": (4, 4, 2)} | arguments))


def test_a_model_needs_a_hidden_layer():
    with pytest.raises(ValueError, match="at least two truly sparse layers"):
        hidden_weights(nn.Sequential(nn.Linear(4, 4), SparseLinear(4, 2, sparsity=0.5)))
