"""compress_: what it converts, what it draws, and what it refuses before anything changes."""

import copy
from typing import Any

import pytest
import torch
from compact_cases import METHODS as METHOD_TABLE
from compact_cases import OPTIMIZERS, SPARSITY, batches, conv_net, linear_net, plain_step
from method_cases import make_net
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import regrow
from regrow import compress_
from regrow.errors import SparsityError
from regrow.nn import SparseConv2d, SparseLinear

X = batches(1)[0][0]


def snapshot(net: nn.Module) -> list[Any]:
    """Modules, parameters by identity, and copies of the values."""
    values = [v.clone() for v in net.state_dict().values() if isinstance(v, Tensor)]
    return [list(map(id, net.modules())), list(map(id, net.parameters())), values]


def unchanged(before: list[Any], net: nn.Module) -> bool:
    now = snapshot(net)
    same = all(torch.equal(a, b) for a, b in zip(before[2], now[2], strict=True))
    return before[:2] == now[:2] and same


# -- what it makes -------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("make", [linear_net, conv_net])
def test_it_computes_what_the_masked_model_does(make: Any, sparsity: float) -> None:
    masked, compact = make(), make()
    layers = regrow.sparsify_(masked, sparsity=sparsity, seed=3)
    topologies = compress_(compact, sparsity=sparsity, seed=3)
    assert list(topologies) == list(layers)
    for name, topology in topologies.items():
        assert topology.is_compact
        assert topology == layers[name].topology
        owner = compact.get_submodule(name.rpartition(".")[0])
        assert owner.topology is topology
    torch.testing.assert_close(compact(X), masked(X), rtol=0, atol=1e-12)


def test_what_stays_dense_is_masked() -> None:
    """Transposed convolutions, attention: no truly sparse form, the same topology."""
    masked, compact = make_net(), make_net()
    layers = regrow.sparsify_(masked, sparsity=0.5, seed=3)
    topologies = compress_(compact, sparsity=0.5, seed=3)
    kinds = {name: topology.is_compact for name, topology in topologies.items()}
    assert kinds == {
        "conv.weight": True,
        "up.weight": False,
        "mix.in_proj_weight": False,
        "mix.out_proj.weight": False,
        "mid.weight": True,
        "head.weight": True,
    }
    assert all(topologies[name] == layer.topology for name, layer in layers.items())
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(compact(x), masked(x), rtol=1e-5, atol=1e-5)
    assert isinstance(compact.conv, SparseConv2d)
    assert isinstance(compact.mid, SparseLinear)


def test_biases_modes_dtypes_and_flags_are_kept() -> None:
    net = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4, bias=False), nn.Linear(4, 4)).bfloat16()
    net[0].bias.requires_grad_(False)
    net[1].eval()
    bias = net[0].bias
    weight = net[2].weight.detach().clone()
    topologies = compress_(net, sparsity=0.5, select="[12].weight")
    assert list(topologies) == ["1.weight", "2.weight"]
    assert type(net[0]) is nn.Linear
    assert net[0].bias is bias
    assert net[1].bias is None
    assert not net[1].training
    assert net[2].training
    assert net[1].values.dtype == torch.bfloat16
    assert torch.equal(net[2].values, weight.reshape(-1)[topologies["2.weight"].indices])


def test_hooks_of_users_are_not_lost() -> None:
    """A forward hook for features, or one for gradients, is there for the layer's place."""
    net = linear_net()
    seen = []
    net[0].register_forward_hook(lambda module, inputs, output: seen.append("forward"))
    net[2].register_full_backward_hook(lambda module, grads, outputs: seen.append("backward"))
    try:
        compress_(net, sparsity=0.5)
    except SparsityError as error:
        assert "hook" in str(error)  # noqa: PT017 - to refuse is right as well
        return
    net(X).sum().backward()
    assert seen == ["forward", "backward"]


def test_convolutions_of_every_kind() -> None:
    for dims, make in ((1, nn.Conv1d), (2, nn.Conv2d), (3, nn.Conv3d)):
        for options in (
            {"stride": 2, "padding": 1, "groups": 2},
            {"dilation": 2, "padding": "same", "bias": False},
            {"padding": 1, "padding_mode": "circular"},
        ):
            dense = make(4, 6, 3, **options).double()
            net = nn.Sequential(copy.deepcopy(dense))
            topology = compress_(net, sparsity=0.6)["0.weight"]
            with torch.no_grad():
                dense.weight.mul_(topology.mask)
            x = torch.randn(2, 4, *(7,) * dims, dtype=torch.float64)
            torch.testing.assert_close(net(x), dense(x), rtol=0, atol=1e-12)
            assert regrow.nn.densify_(net)[0].extra_repr() == dense.extra_repr()


def test_one_module_in_several_places_and_tied_weights() -> None:
    shared, tied = nn.Linear(6, 6), nn.Linear(6, 6)
    tied.weight = shared.weight
    net = nn.Sequential(shared, nn.ModuleDict({"same": shared}), tied)
    topologies = compress_(net, sparsity=0.5)
    assert list(topologies) == ["0.weight"]
    assert net[1]["same"] is net[0]
    assert net[2] is not net[0]
    assert net[2].values is net[0].values
    assert net[2].topology is net[0].topology
    assert len(list(net.parameters())) == 3


def test_weights_tied_to_what_has_no_sparse_form_stay_masked() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6, bias=False), nn.Bilinear(1, 1, 1, bias=False)
            self.b.weight = self.a.weight
            self.c = nn.Linear(6, 6)

    net = Net()
    topologies = compress_(net, sparsity=0.5)
    assert not topologies["a.weight"].is_compact
    assert net.a.weight is net.b.weight
    assert not net.a.weight.detach()[~topologies["a.weight"].mask].any()


def test_subclasses_are_not_converted() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    net = nn.Sequential(Scaled(6, 6), nn.Linear(6, 6))
    torch.nn.utils.parametrizations.weight_norm(net[1])
    net.append(nn.Linear(6, 6))
    before = type(net[1])
    topologies = compress_(net, sparsity=0.5, select=["0.weight", "2.weight"])
    assert [t.is_compact for t in topologies.values()] == [False, True]
    assert type(net[0]) is Scaled
    assert type(net[1]) is before


@pytest.mark.parametrize("kind", ["layer", "encoder", "decoder"])
def test_transformers_evaluate_as_they_train(kind: str) -> None:
    """torch's fast path of inference reads the weights of its layers by name."""
    torch.manual_seed(0)
    options = {"batch_first": True, "dropout": 0.0}
    layer = nn.TransformerEncoderLayer(16, 2, 32, **options)
    made = {
        "layer": layer,
        "encoder": nn.TransformerEncoder(layer, 2),
        "decoder": nn.TransformerDecoderLayer(16, 2, 32, **options),
    }[kind]
    net = nn.ModuleList([made])
    topologies = compress_(net, sparsity=0.5)
    arguments = [torch.randn(2, 3, 16) for _ in range(1 + (kind == "decoder"))]
    wanted = net[0](*arguments)
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(net[0](*arguments), wanted, rtol=1e-5, atol=1e-5)
    assert topologies


def test_compressing_twice_keeps_what_is_sparse() -> None:
    net = linear_net()
    first = compress_(net, sparsity=0.5, select="0.weight")
    rest = compress_(net, sparsity=0.5, select=["2.weight", "4.weight"])
    before = snapshot(net)
    # Not the same share of each under one allocation: say which by name.
    again = compress_(net, sparsity=None, allocation=regrow.explicit({**first, **rest}))
    assert dict(again) == {**first, **rest}
    assert unchanged(before, net)
    assert compress_(net, sparsity=None) == {**first, **rest}


@pytest.mark.parametrize("method", METHOD_TABLE)
def test_explicit_topologies_go_on_to_every_method(method: str) -> None:
    name, options, initial = METHOD_TABLE[method]
    net = linear_net()
    drawn = compress_(net, sparsity=initial, allocation=regrow.uniform(), seed=4)
    optimizer = OPTIMIZERS["momentum"](net.parameters())
    sparsity = None if name in ("static", "set_training", "rigl") else SPARSITY
    allocation = regrow.explicit(drawn)
    if name == "mest":
        allocation = regrow.uniform()
    updater = getattr(regrow, name)(
        net, optimizer, sparsity=sparsity, allocation=allocation, **options
    )
    assert dict(updater.topologies) == drawn
    for batch in batches(4):
        plain_step(net, optimizer, batch)


# -- faster --------------------------------------------------------------------------------------


def test_only_what_is_faster_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By times that are made up: the comparison, not the machine, is tested."""
    asked = []

    def seconds(layers: Any, x: Tensor) -> list[float]:
        dense, sparse = layers
        assert type(dense) is nn.Linear
        assert type(sparse) is SparseLinear
        asked.append(tuple(x.shape))
        return [2.0, 1.0 if dense.in_features == 48 else 3.0]

    monkeypatch.setattr(regrow.nn, "step_seconds", seconds)
    net = linear_net()
    net.append(nn.Linear(6, 6).double())
    state = torch.random.get_rng_state()
    net.train()
    topologies = compress_(net, sparsity=0.5, convert="faster", inputs=X)
    assert asked == [(12, 24), (12, 48), (12, 24), (12, 6)]
    assert [t.is_compact for t in topologies.values()] == [False, True, False, False]
    assert net.training
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, topology in topologies.items():
        owner = net.get_submodule(name.rpartition(".")[0])
        if not topology.is_compact:
            assert not owner.weight.detach()[~topology.mask].any()
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    updater = regrow.rigl(net, optimizer, sparsity=0.5, n_steps=8, interval=2, stop_at=1.0)
    for batch in batches(8):
        plain_step(net, optimizer, batch)
    assert updater.rewirings == 3


def test_faster_asks_for_the_gradients_that_training_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first layer's input needs none: with it, another form might look faster."""
    needed = []

    def seconds(layers: Any, x: Tensor) -> list[float]:
        needed.append(x.requires_grad)
        return [1.0, 2.0]

    monkeypatch.setattr(regrow.nn, "step_seconds", seconds)
    compress_(linear_net(), sparsity=0.5, convert="faster", inputs=X)
    assert needed == [False, True, True]


def test_faster_for_real_leaves_gradients_and_buffers_alone() -> None:
    net = nn.Sequential(nn.Linear(24, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 6)).double()
    unused = nn.Linear(4, 4).double()
    net.add_module("never", nn.ModuleList([unused]))
    with pytest.raises(NotImplementedError):
        compress_(net, sparsity=0.5, convert="faster", inputs=X)  # a ModuleList is not called
    del net.never
    before = [b.clone() for b in net.buffers()]
    compress_(net, sparsity=0.9, convert="faster", inputs=(X,))
    assert all(torch.equal(a, b) for a, b in zip(before, net.buffers(), strict=True))
    assert all(p.grad is None for p in net.parameters())


# -- what a user does next -----------------------------------------------------------------------


def test_flops_of_the_step_are_those_of_connections() -> None:
    """torch's own counter sees the products' formulas."""
    net = linear_net(dtype=torch.float32)
    topologies = compress_(net, sparsity=0.75)
    x = X.float()
    with FlopCounterMode(display=False) as counter:
        net(x)
    assert counter.get_total_flops() == sum(2 * 12 * t.nnz for t in topologies.values())


def test_finetuning_without_any_updater() -> None:
    """A compressed model is a model: torch alone trains it, and it stays as sparse."""
    net = linear_net()
    compress_(net, sparsity=0.8)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02)
    losses = [plain_step(net, optimizer, batches(1)[0]) for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]
