"""Silent bugs of libraries with truly sparse layers, B10 to B13 and B16, as far as ours could.

Numbered as in our survey; each docstring says what the other library does wrong.
"""

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from compact_cases import (
    N_STEPS,
    SPARSITY,
    batches,
    conv_net,
    linear_net,
    loss_of,
    plain_step,
    start,
)
from torch import Tensor, nn

import regrow
from regrow.nn import SparseConv2d, SparseLinear

DATA = batches(N_STEPS)
X = DATA[0][0]


# -- B10: values without their topology ----------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
def test_b10_the_topology_travels_with_the_values(strict: bool) -> None:
    """SparseLab: the state holds values alone; it loads "all keys matched", with other outputs."""
    run = start(linear_net(), "set", compact=True).train(DATA)
    for seed in (7, 8):  # that of the topology it began with, and another
        other = linear_net(seed=1)
        regrow.compress_(other, sparsity=SPARSITY, seed=seed)
        assert other[0].topology != run.net[0].topology
        message = str(other.load_state_dict(run.net.state_dict(), strict=strict))
        assert message == "<All keys matched successfully>"
        assert torch.equal(other(X), run.net(X))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("left", ["values", "_extra_state"])
def test_b10_values_without_a_topology_are_refused(left: str, strict: bool) -> None:
    """SparseLab: old files hold values alone."""
    run = start(linear_net(), "set", compact=True).train(DATA)
    state = {k: v for k, v in run.net.state_dict().items() if not k.endswith(left)}
    other = linear_net()
    regrow.compress_(other, sparsity=SPARSITY, seed=7)
    before = copy.deepcopy(other[0].state_dict())
    with pytest.raises(RuntimeError, match="values mean nothing without their topology"):
        other.load_state_dict(state, strict=strict)
    assert all(torch.equal(a, other[0].state_dict()[key]) for key, a in before.items())


# -- B11: momentum of other connections ----------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["momentum", "adamw", "rmsprop", "adagrad"])
@pytest.mark.parametrize("method", ["set", "rigl", "mest", "granet"])
def test_b11_moments_follow_their_connection(method: str, optimizer: str) -> None:
    """SparseLab: state stays in its slot, and the slot's new connection inherits it."""
    net = linear_net()
    run = start(net, method, optimizer, compact=True)
    n_moved = n_new = 0
    for batch in DATA:
        old = {i: net[i].topology for i in (0, 2, 4)}
        optimizer_before = {
            i: {k: v.clone() for k, v in run.optimizer.state[net[i].values].items()} for i in old
        }
        rewired = run.updater.rewirings
        plain_step(net, run.optimizer, batch)
        if run.updater.rewirings == rewired:
            continue
        for i, before in old.items():
            now = net[i].topology
            stays = torch.isin(now.indices, before.indices)
            places = torch.searchsorted(before.indices, now.indices[stays])
            for key, value in run.optimizer.state[net[i].values].items():
                if value.shape != net[i].values.shape:
                    continue
                fresh = 0.25 if (optimizer, key) == ("adagrad", "sum") else 0.0
                assert bool((value[~stays] == fresh).all()), (i, key)
                was = optimizer_before[i][key][places]
                if method == "rigl":  # takes the place of the weight step: bit for bit
                    assert torch.equal(value[stays], was), (i, key)
            n_moved += int((places != stays.nonzero().squeeze(1)).sum())
            n_new += int((~stays).sum())
    assert n_new > 100
    assert n_moved > 100, "no connection changed its slot: no test"


# -- B12: copies, bfloat16, autocast, compile ----------------------------------------------------


def layers() -> list[tuple[nn.Module, Tensor]]:
    return [
        (SparseLinear(24, 12, sparsity=0.7), X.float()),
        (SparseConv2d(4, 6, 3, padding=1, sparsity=0.7), X.float().view(-1, 4, 2, 3)),
    ]


@pytest.mark.parametrize("which", [0, 1])
def test_b12_deepcopy(which: int) -> None:
    """SparseLab: ``copy.deepcopy`` raises, so there is no EMA and no SWA."""
    layer, x = layers()[which]
    layer(x).sum().backward()
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(x), layer(x))
    with torch.no_grad():
        twin.values.add_(1.0)
    assert not torch.equal(twin.values, layer.values)
    averaged = torch.optim.swa_utils.AveragedModel(layer)
    averaged.update_parameters(layer)
    assert torch.equal(averaged(x), layer(x))


@pytest.mark.parametrize("which", [0, 1])
def test_b12_bfloat16(which: int) -> None:
    """SparseLab: a TypeError."""
    layer, x = layers()[which]
    wanted = layer(x)
    y = layer.bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), wanted, rtol=0.03, atol=0.03)
    y.float().square().mean().backward()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    before = layer.values.detach().clone()
    optimizer.step()
    assert not torch.equal(before, layer.values)


@pytest.mark.parametrize("which", [0, 1])
def test_b12_autocast(which: int) -> None:
    """SparseLab: ignored."""
    layer, x = layers()[which]
    wanted = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), wanted, rtol=0.03, atol=0.03)
    y.float().sum().backward()
    assert layer.values.grad.dtype == torch.float32
    with torch.autocast("cpu", enabled=False):
        assert layer(x).dtype == torch.float32


@pytest.fixture
def compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("which", [0, 1])
def test_b12_compile(which: int, backend: str) -> None:
    """SparseLab: ``torch.compile(fullgraph=True)`` is not supported."""
    layer, x = layers()[which]
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for net in (compiled, twin):
        net(x).square().sum().backward()
    torch.testing.assert_close(layer.values.grad, twin.values.grad, rtol=1e-5, atol=1e-5)
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("make", [linear_net, conv_net])
@pytest.mark.parametrize("method", ["set", "rigl", "mest"])
def test_b12_compiled_training_is_the_same_through_many_rewirings(method: str, make: Any) -> None:
    """One graph, or a few: torch gives up behind eight recompilations of one function."""
    options = {"interval": 1, "stop_at": 1.0, "n_steps": N_STEPS}
    one = start(make(), method, compact=True, **options)
    two = start(make(), method, compact=True, **options)
    two.net.compile(fullgraph=True, backend="eager")
    for run in (one, two):
        run.train(DATA)
    assert one.updater.rewirings == N_STEPS - 1
    assert one.losses == pytest.approx(two.losses, abs=1e-9)
    assert dict(one.updater.topologies) == dict(two.updater.topologies)


# -- B13: clones on every step -------------------------------------------------------------------


def test_b13_nothing_is_kept_on_ordinary_steps() -> None:
    """SparseLab: RigL clones input and output gradient of every layer on every step."""
    run = start(linear_net(), "rigl", compact=True)  # due: 3, 6, 9
    seen = []
    for batch in DATA:
        run.optimizer.zero_grad()
        loss_of(run.net, batch).backward()
        seen.append([len(layer.watched) for layer in run.net[::2]])
        run.optimizer.step()
        assert not any(layer.watched for layer in run.net[::2])
    assert seen == [[1, 1, 1] if i in (3, 6, 9) else [0, 0, 0] for i in range(1, N_STEPS + 1)]


@pytest.mark.parametrize("method", ["static", "set", "gradual"])
def test_b13_methods_that_read_no_gradient_keep_nothing(method: str) -> None:
    """Nor on the steps that rewire."""
    run = start(linear_net(), method, compact=True)
    for batch in DATA:
        loss_of(run.net, batch).backward()
        assert not any(layer.watched for layer in run.net[::2])
        run.optimizer.step()


def test_b13_what_is_kept_is_no_copy() -> None:
    """The input itself, which the products keep anyway."""
    run = start(nn.Sequential(nn.Linear(24, 6)).double(), "rigl", compact=True, interval=1)
    x = X.clone()
    run.net(x).square().sum().backward()
    ((kept, _),) = run.net[0].watched
    assert kept.data_ptr() == x.data_ptr()


def test_b13_growth_follows_the_whole_accumulated_step() -> None:
    """SparseLab: by the last micro-batch only, row by row."""
    net = nn.Sequential(nn.Linear(24, 12)).double()
    options = {"interval": 1, "regrow": "never", "weight_step": "skip", "drop_fraction": 0.5}
    run = start(net, "rigl", "sgd", compact=True, **options)
    old = net[0].topology
    weight = net[0].dense_weight().requires_grad_()
    by_part = []
    for some in (slice(0, 6), slice(6, 12)):
        (net(X[some]).exp().sum()).backward()
        (part,) = torch.autograd.grad(
            nn.functional.linear(X[some], weight, net[0].bias).exp().sum(), weight
        )
        by_part.append(part)
    run.optimizer.step()
    new = net[0].topology
    grown = set(new.indices.tolist()) - set(old.indices.tolist())
    assert len(grown) > 20

    def best(grad: Tensor) -> set[int]:
        scores = grad.abs().reshape(-1).masked_fill(old.mask.reshape(-1), -1.0)
        return set(scores.topk(len(grown)).indices.tolist())

    assert grown == best(by_part[0] + by_part[1])
    assert grown != best(by_part[1])
    in_rows = torch.tensor(sorted(grown)).div(24, rounding_mode="floor").bincount(minlength=12)
    lost = (old.mask & ~new.mask).sum(1)
    assert not torch.equal(in_rows, lost), "rows exchange connections"


# -- B16: optimizers on the parameter ------------------------------------------------------------

WORKS = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "RMSprop")
WORKS += ("Rprop", "ASGD")


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", WORKS)
def test_b16_every_optimizer_steps_the_values(name: str, foreach: bool) -> None:
    """torch.sparse: AdamW on a CSR parameter raises; ours is an ordinary vector."""
    make = getattr(torch.optim, name)
    assert "foreach" in inspect.signature(make).parameters
    net = linear_net()
    regrow.compress_(net, sparsity=0.6, seed=7)
    optimizer = make(net.parameters(), lr=0.01, foreach=foreach)
    updater = regrow.mest(
        net, optimizer, sparsity=0.6, n_steps=12, interval=2, growth="gradient", seed=7
    )
    before = {i: net[i].values.detach().clone() for i in (0, 2, 4)}
    for batch in DATA[:10]:
        plain_step(net, optimizer, batch)
    assert updater.rewirings == 4
    for i in (0, 2, 4):
        assert net[i].values.layout == torch.strided
        assert net[i].values.isfinite().all()
        for value in optimizer.state[net[i].values].values():
            assert not torch.is_tensor(value) or value.numel() in (1, net[i].nnz)
        same = net[i].values.shape == before[i].shape
        assert not (same and torch.equal(net[i].values, before[i]))


def test_b16_every_optimizer_of_torch_is_named() -> None:
    """A new one is looked at, not forgotten."""
    others = {"Adafactor", "LBFGS", "Muon", "Optimizer", "SparseAdam"}
    found = {name for name, kind in vars(torch.optim).items() if inspect.isclass(kind)}
    assert found - others == set(WORKS)


def test_b16_functional_linear_has_a_counterpart() -> None:
    """torch.sparse: ``F.linear`` with a CSR weight raises."""
    layer = SparseLinear(24, 6, sparsity=0.5, dtype=torch.float64)
    y = regrow.ops.sparse_linear(layer.values, layer.layout, X, bias=layer.bias)
    torch.testing.assert_close(
        y, nn.functional.linear(X, layer.dense_weight(), layer.bias), rtol=0, atol=1e-12
    )
