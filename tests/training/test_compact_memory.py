"""Nothing of the dense size: every tensor that torch or numpy makes is looked at."""

import copy
import io
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import regrow
from regrow.nn import SparseLinear
from regrow.training import _recorded as recorded

OUT, IN, SPARSITY, BATCH = 3000, 4000, 0.99, 16
N_ELEMENTS = OUT * IN
NNZ = round(N_ELEMENTS * (1 - SPARSITY))
LIMIT = N_ELEMENTS // 4
"""Bytes of one tensor: a quarter of what a mask would take; a connection may have 12 of them."""
BLOCK = 2**18
"""Elements that growth looks at together here; 2**20 by default, whatever the size of the layer."""


class Watcher(TorchDispatchMode):
    """Keeps the largest storage that an operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.made_by = 0, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, list | tuple) else (result,):
            if isinstance(one, Tensor):
                n_bytes = one.untyped_storage().nbytes()
                if n_bytes > self.largest and not _is_view(one, (args, kwargs)):
                    self.largest, self.made_by = n_bytes, str(func)
        return result


def _is_view(tensor: Tensor, arguments: Any) -> bool:
    storage = tensor.untyped_storage()._cdata
    given = [t for t in tree_leaves(arguments) if isinstance(t, Tensor)]
    return any(t.untyped_storage()._cdata == storage for t in given)


@contextmanager
def nothing_dense() -> Iterator[Watcher]:
    """Fails where one tensor, or all numpy arrays together, came near the dense size."""
    watcher = Watcher()
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    try:
        with watcher:
            yield watcher
        _, peak = tracemalloc.get_traced_memory()
    finally:
        if not was_tracing:
            tracemalloc.stop()
    assert watcher.largest <= LIMIT, f"{watcher.largest:,} bytes by {watcher.made_by}"
    assert peak - before <= 4 * LIMIT, f"{peak - before:,} bytes of Python and numpy"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound that is stated, scaled to the size of the layer."""
    from regrow.topology import _groups

    monkeypatch.setattr(_groups, "AT_ONCE", BLOCK)
    monkeypatch.setattr(recorded, "BLOCK", BLOCK)


def test_the_watcher_sees_what_is_dense() -> None:
    for make in (
        lambda: torch.zeros(OUT, IN, dtype=torch.bool),
        lambda: torch.rand(LIMIT // 4 + 1),
        lambda: SparseLinear(IN, OUT, sparsity=SPARSITY).dense_weight(),
    ):
        with pytest.raises(AssertionError, match="bytes by aten"), nothing_dense():
            make()


def test_construction() -> None:
    with nothing_dense() as watcher:
        layer = SparseLinear(IN, OUT, sparsity=SPARSITY)
    assert layer.nnz == NNZ
    assert watcher.largest >= 4 * NNZ


METHODS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "static": (regrow.static, {}),
    "set": (regrow.set_training, {"n_steps": 8, "interval": 2, "stop_at": 1.0}),
    "rigl": (regrow.rigl, {"n_steps": 8, "interval": 2, "stop_at": 1.0}),
    "mest": (regrow.mest, {"n_steps": 8, "interval": 2}),
    "granet": (regrow.granet, {"n_steps": 8, "interval": 2, "initial_sparsity": 0.98}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "optimizer"),
    list(zip(METHODS, ("sgd", "adamw", "sgd", "adamw", "sgd"), strict=True)),
)
def test_training_rewiring_saving_and_loading(method: str, optimizer: str) -> None:
    attach, options = METHODS[method]
    initial = 0.98 if method == "granet" else SPARSITY
    net = nn.Sequential(SparseLinear(IN, OUT, sparsity=initial))
    make = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.001),
    }[optimizer]
    x = torch.randn(BATCH, IN, generator=torch.Generator().manual_seed(0))
    net(x).sum().backward()  # compiled outside
    net.zero_grad()
    with nothing_dense():
        one = make(net.parameters())
        updater = attach(net, one, sparsity=SPARSITY, **options)
        first = updater.topologies["0.weight"]
        for _ in range(4):
            one.zero_grad()
            net(x).square().mean().backward()
            one.step()
        file = io.BytesIO()
        states = [net.state_dict(), one.state_dict(), updater.state_dict()]
        torch.save(states, file)
        file.seek(0)
        for part, state in zip((net, one, updater), torch.load(file), strict=True):
            part.load_state_dict(state)
        other = SparseLinear(IN, OUT, sparsity=0.995, seed=2)
        nn.Sequential(other).load_state_dict(states[0])
        copy.deepcopy(net)(x).sum().backward()
        updater.metrics(per_layer=True)
        str(updater.report())
        str(updater.plan())
    assert updater.rewirings == 0 if method == "static" else 2
    assert (updater.topologies["0.weight"] != first) == (method != "static")
    assert other.nnz == net[0].nnz
    state = one.state[net[0].values]
    assert all(t.numel() in (1, net[0].nnz) for t in state.values() if torch.is_tensor(t))


def test_held_memory_is_in_proportion_to_connections() -> None:
    """SGD with momentum, between steps: at most 25 bytes a connection, Adam 29."""
    for make, most in (
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 25),
        (lambda p: torch.optim.AdamW(p, lr=0.1), 29),
    ):
        layer = SparseLinear(IN, OUT, bias=False, sparsity=SPARSITY)
        optimizer = make(layer.parameters())
        updater = regrow.set_training(
            layer, optimizer, sparsity=SPARSITY, n_steps=8, interval=2, stop_at=1.0
        )
        x = torch.randn(BATCH, IN).requires_grad_()
        for _ in range(4):
            optimizer.zero_grad()
            layer(x).square().mean().backward()
            optimizer.step()
        layer(x).square().mean().backward()
        assert updater.rewirings == 2
        storages: dict[int, int] = {}

        def hold(tensor: Tensor) -> None:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()  # noqa: B023

        hold(layer.values)
        hold(layer.values.grad)
        for tensor in optimizer.state[layer.values].values():
            hold(tensor)
        for tensor in (*layer.topology.csr, *layer.layout.column_form):
            hold(tensor)
        pointers = 8 * (OUT + IN + 2) + 100
        assert sum(storages.values()) - pointers <= most * NNZ
        extra = [
            t
            for holder in (layer, layer.topology, layer.layout, updater)
            for t in vars(holder).values()
            if torch.is_tensor(t) and t.untyped_storage().data_ptr() not in storages
        ]
        assert not extra


def test_compressing_makes_one_layer_at_a_time_dense_memory_it_had() -> None:
    """The dense weights go; none of the masks or scores of that size comes."""
    net = nn.Sequential(nn.Linear(IN, OUT))
    with nothing_dense():
        regrow.compress_(net, sparsity=SPARSITY)
    assert net[0].nnz == NNZ


def test_a_rewiring_by_gradient_keeps_no_block() -> None:
    """The stated bound: blocks of whole rows, one at a time."""
    layer = SparseLinear(IN, OUT, bias=False, sparsity=SPARSITY)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    regrow.rigl(layer, optimizer, sparsity=SPARSITY, n_steps=8, interval=1)
    x = torch.randn(BATCH, IN)
    layer(x).square().mean().backward()
    with nothing_dense() as watcher:
        optimizer.step()
    assert watcher.largest <= 8 * (BLOCK + NNZ)


def test_memory_of_a_step_does_not_depend_on_the_dense_size() -> None:
    """Ten times the inputs at a tenth of the density: the same tensors, but for activations."""
    largest = []
    for n_in, sparsity in ((IN, 0.99), (10 * IN, 0.999)):
        layer = SparseLinear(n_in, OUT, bias=False, sparsity=sparsity)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        regrow.set_training(layer, optimizer, sparsity=sparsity, n_steps=8, interval=1)
        x = torch.randn(2, n_in)
        layer(x).sum().backward()
        watcher = Watcher()
        with watcher:
            optimizer.step()
        largest.append(watcher.largest)
    assert largest[1] <= 1.1 * largest[0]
