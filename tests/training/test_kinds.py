"""Kinds of models and tensors: tied, half precision, any memory format, no gradient."""

import logging
from typing import Any

import pytest
import torch
from tiny_cases import OPTIMIZERS, batches, check_dead, counts_of, fresh_state, step, tiny_net
from torch import Tensor, nn

import regrow
from regrow.criteria import saliency


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3)


def run(net: nn.Module, x: Tensor, n: int, optimizer: torch.optim.Optimizer) -> None:
    for i in range(n):
        net(x + i / 10).float().pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


# -- tied ------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(12, 12)
        self.decode = nn.Linear(12, 12)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x).relu())


@pytest.mark.parametrize("select", [None, "encode.weight", "decode.weight"])
def test_tied_weights_are_one_topology(select: str | None) -> None:
    net = Tied()
    optimizer = sgd(net.parameters())
    chosen = {} if select is None else {"select": select}
    updater = regrow.rigl(net, optimizer, sparsity=0.75, n_steps=20, interval=3, **chosen)
    assert list(updater.topologies) == ["encode.weight"]
    assert updater.nnz == 36
    run(net, torch.randn(5, 12), 8, optimizer)
    assert net.decode.weight is net.encode.weight
    assert int((net.decode.weight != 0).sum()) <= updater.nnz == 36
    assert updater.rewirings == 2
    assert "decode.weight" in str(updater.plan()), "the plan lists every place"


def test_an_embedding_tied_to_a_linear_layer_stays_dense() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 8)
            self.mix = nn.Linear(8, 8)
            self.out = nn.Linear(8, 20, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.out(self.mix(self.embed(tokens)))

    net = Language()
    optimizer = sgd(net.parameters())
    updater = regrow.static(net, optimizer, sparsity=0.5)
    assert list(updater.topologies) == ["mix.weight"]
    assert net.embed.weight.detach().all()
    assert "tied to an embedding" in str(updater.plan())


def test_a_module_used_twice_is_one_weight() -> None:
    shared = nn.Linear(8, 8)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    optimizer = sgd(net.parameters())
    updater = regrow.rigl(net, optimizer, sparsity=0.5, n_steps=20, interval=3)
    assert list(updater.topologies) == ["0.weight"]
    run(net, torch.randn(5, 8), 7, optimizer)
    assert updater.nnz == 32
    assert not shared.weight.detach()[~updater.topologies["0.weight"].mask].any()


# -- dtypes and memory formats ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "optimizer_name"),
    [
        *((dtype, name) for dtype in (torch.bfloat16, torch.float64) for name in OPTIMIZERS),
        # In float16 the eps of the others is 0, and 0 / 0 no number, with or without us.
        (torch.float16, "sgd"),
        (torch.float16, "rprop"),
    ],
)
def test_other_dtypes(dtype: torch.dtype, optimizer_name: str) -> None:
    net = tiny_net(dtype=dtype)
    make = OPTIMIZERS[optimizer_name]
    optimizer = make(net.parameters())
    fresh = fresh_state(make, net)
    updater = regrow.rigl(net, optimizer, sparsity=0.7, n_steps=16, interval=3)
    start, first = counts_of(updater), updater.topologies
    for batch in batches(8, dtype=dtype):
        step(net, optimizer, batch)
        check_dead(net, optimizer, updater, fresh)
        assert counts_of(updater) == start
    assert updater.rewirings == 2
    assert dict(first) != dict(updater.topologies)
    assert net.fc.weight.dtype == dtype


def test_memory_formats_agree() -> None:
    """Positions are row-major whatever the strides: the topologies are the same."""
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        net = tiny_net(dtype=torch.float64).to(memory_format=memory_format)
        assert net.conv.weight.is_contiguous(memory_format=memory_format)
        optimizer = sgd(net.parameters())
        updater = regrow.rigl(
            net,
            optimizer,
            sparsity=0.7,
            n_steps=30,
            interval=2,
            regrow="zero",
            weight_step="before",
        )
        masks = []
        for batch in batches(13, dtype=torch.float64):
            step(net, optimizer, batch)
            masks.append(updater.topologies["conv.weight"].mask.clone())
            assert not net.conv.weight.detach()[~masks[-1]].any()
            assert not optimizer.state[net.conv.weight]["momentum_buffer"][~masks[-1]].any()
        assert net.conv.weight.is_contiguous(memory_format=memory_format)
        results.append((masks, net.conv.weight.detach().clone()))
    assert all(torch.equal(a, b) for a, b in zip(results[0][0], results[1][0], strict=True))
    torch.testing.assert_close(results[0][1], results[1][1])
    assert not torch.equal(results[0][0][0], results[0][0][-1])


def test_a_transposed_weight() -> None:
    net = nn.Linear(6, 4)
    net.weight = nn.Parameter(torch.randn(6, 4).t())
    assert not net.weight.is_contiguous()
    optimizer = sgd(net.parameters())
    updater = regrow.set_training(
        net, optimizer, sparsity=0.5, n_steps=20, interval=2, regrow="zero"
    )
    for _ in range(9):
        run(net, torch.randn(5, 6), 1, optimizer)
        assert not net.weight.detach()[~updater.topologies["weight"].mask].any()
        assert updater.nnz == 12
    assert updater.rewirings == 4


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: nn.Conv1d(3, 6, 3), torch.randn(2, 3, 9)),
        (lambda: nn.Conv3d(2, 4, 2), torch.randn(2, 2, 4, 4, 4)),
        (lambda: nn.ConvTranspose2d(3, 4, 2), torch.randn(2, 3, 5, 5)),
        (lambda: nn.Conv2d(4, 8, 3, groups=4), torch.randn(2, 4, 5, 5)),
        (lambda: nn.Linear(1, 9), torch.randn(3, 1)),
    ],
)
def test_other_layers(make: Any, x: Tensor) -> None:
    net = make()
    optimizer = sgd(net.parameters())
    updater = regrow.rigl(net, optimizer, sparsity=0.5, n_steps=20, interval=2)
    run(net, x, 7, optimizer)
    weight, mask = net.weight.detach(), updater.topologies["weight"].mask
    assert mask.shape == weight.shape
    assert updater.nnz == round(weight.numel() / 2)
    assert not weight[~mask].any()


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers(kind: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(5, 8, num_layers=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0]

    net = Net()
    optimizer = sgd(net.parameters())
    updater = regrow.rigl(net, optimizer, sparsity=0.6, n_steps=20, interval=3)
    names = [f"rnn.weight_{kind_}_l{i}" for i in range(2) for kind_ in ("ih", "hh")]
    assert list(updater.topologies) == names
    start = counts_of(updater)
    run(net, torch.randn(4, 2, 5), 7, optimizer)
    assert counts_of(updater) == start
    assert updater.rewirings == 2
    for name, topology in updater.topologies.items():
        assert not net.get_parameter(name).detach()[~topology.mask].any()


def test_attention() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same = nn.MultiheadAttention(8, 2)
            self.other = nn.MultiheadAttention(8, 2, kdim=6, vdim=4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.same(x, x, x)[0]
            return self.other(y, x[..., :6], x[..., :4])[0]

    net = Net()
    optimizer = sgd(net.parameters())
    updater = regrow.rigl(net, optimizer, sparsity=0.6, n_steps=20, interval=3)
    assert list(updater.topologies) == [
        "same.in_proj_weight",
        "same.out_proj.weight",
        "other.q_proj_weight",
        "other.k_proj_weight",
        "other.v_proj_weight",
        "other.out_proj.weight",
    ]
    run(net, torch.randn(4, 2, 8), 7, optimizer)
    assert updater.rewirings == 2


# -- gradients that do not come --------------------------------------------------------------


class HalfUsed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(8, 8)
        self.idle = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def half_used(
    method: str, caplog: pytest.LogCaptureFixture, **options: Any
) -> tuple[regrow.TopologyUpdater, Any, Any]:
    net = HalfUsed()
    optimizer = sgd(net.parameters())
    make = {"rigl": regrow.rigl, "granet": regrow.granet, "mest": regrow.mest}[method]
    updater = make(net, optimizer, sparsity=0.7, n_steps=20, interval=4, **options)
    before = dict(updater.topologies)
    with caplog.at_level(logging.INFO, "regrow"):
        run(net, torch.randn(5, 8), 17, optimizer)
    return updater, before, dict(updater.topologies)


def test_a_layer_without_gradient_grows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    updater, before, after = half_used("rigl", caplog)
    assert before["used.weight"] != after["used.weight"]
    assert before["idle.weight"] == after["idle.weight"]
    assert updater.rewirings == 3
    assert any("idle.weight got no gradient" in m for m in caplog.messages)


def test_a_layer_without_gradient_still_goes_to_the_target(
    caplog: pytest.LogCaptureFixture,
) -> None:
    updater, before, after = half_used("granet", caplog)
    assert updater.nnz == round(128 * 0.3)
    assert after["idle.weight"].nnz < before["idle.weight"].nnz
    assert not (after["idle.weight"].mask & ~before["idle.weight"].mask).any()


@pytest.mark.parametrize("method", ["rigl", "granet", "mest"])
def test_a_layer_without_gradient_where_dropping_reads_it(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No gradient, no score: it keeps what it has, or drops by what is known; it does not crash."""
    _, before, after = half_used(method, caplog, drop=saliency)
    assert before["used.weight"] != after["used.weight"]
    assert not (after["idle.weight"].mask & ~before["idle.weight"].mask).any()


def test_full_layers_and_sparsity_zero() -> None:
    net = tiny_net()
    optimizer = sgd(net.parameters())
    updater = regrow.rigl(net, optimizer, sparsity=0.0, n_steps=20, interval=3)
    for batch in batches(8):
        step(net, optimizer, batch)
    assert updater.sparsity == 0.0
    assert updater.rewirings == 2
    assert sum(sum(r.n_dropped) for r in updater.history) == 0
