"""What a rewiring of truly sparse layers needs for a time; in small parts it decides the same."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

import regrow
from regrow.criteria import Score, gradient, product
from regrow.nn import SparseConv2d, SparseLinear
from regrow.topology import _rows as rows
from regrow.training import _places as places
from regrow.training._compact import CompactWeight

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MOST = 24
"""Bytes a connection of the largest layer."""


@pytest.fixture(scope="module")
def benchmark():
    """What measures it for people, on their networks."""
    folders = [str(BENCHMARKS), str(BENCHMARKS / "training")]
    sys.path[:0] = folders
    try:
        yield importlib.import_module("rewiring_memory")
    finally:
        for folder in folders:
            sys.path.remove(folder)


@pytest.mark.parametrize("method", ["set", "rigl"])
@pytest.mark.parametrize("network", ["set-mlp", "one layer"])
def test_a_rewiring_needs_at_most_as_much_as_what_is_held(benchmark, network, method):
    sizes, sparsity = {**benchmark.NETWORKS, "one layer": ((1536, 1536), 0.9)}[network]
    peak, largest = benchmark.measured(sizes, sparsity, method, batch=16)
    assert peak.torch + peak.python <= MOST * largest
    # Something must be there, or nothing was watched: new columns at least.
    assert peak.torch >= 4 * largest


@pytest.mark.parametrize("weight_step", ["before", "after", "skip"])
@pytest.mark.parametrize("method", ["set", "rigl"])
def test_whenever_the_weights_step(benchmark, method, weight_step):
    peak, largest = benchmark.measured((1024, 1024), 0.9, method, batch=16, weight_step=weight_step)
    assert peak.torch <= MOST * largest


def test_what_is_measured_is_what_is_there(benchmark):
    """Peaks, not sums; torch's temporaries and numpy's arrays; nothing from before or behind."""
    measure = sys.modules["memory"].peak_above_held
    million = 2**20

    def build():
        torch.zeros(8 * million, dtype=torch.uint8)

        def watched():
            for _ in range(3):
                torch.zeros(million, dtype=torch.uint8)
            torch.arange(million // 8).sort(descending=True)  # values, indices, and more inside

        return watched

    peak = measure(build)
    assert 3 * million <= peak.torch <= 5 * million
    assert peak.python < million

    def numpys():
        return lambda: torch.zeros(million, dtype=torch.uint8).numpy().copy()

    peak = measure(numpys)
    assert million <= peak.torch < 1.1 * million
    assert million <= peak.python < 1.1 * million


# -- parts and runs decide what the whole decides ------------------------------------------------


def rewired(make, method, **options):
    """The topology after some rewirings."""
    torch.manual_seed(0)
    layer = make()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    updater = getattr(regrow, method)(
        layer, optimizer, sparsity=None, n_steps=20, interval=1, stop_at=1.0, **options
    )
    shape = (layer.in_features,) if isinstance(layer, SparseLinear) else (layer.in_channels, 5, 5)
    for _ in range(4):
        optimizer.zero_grad()
        layer(torch.randn(6, *shape)).square().mean().backward()
        optimizer.step()
    assert updater.rewirings == 4
    return updater.topologies["weight"], layer.values.detach()


MAKE = {
    "linear": lambda: SparseLinear(23, 31, sparsity=0.8),
    "convolution": lambda: SparseConv2d(6, 10, 3, sparsity=0.7),
}


@pytest.mark.parametrize("method", ["set_training", "rigl"])
@pytest.mark.parametrize("name", MAKE)
def test_small_parts_decide_the_same(name, method, monkeypatch):
    wanted = rewired(MAKE[name], method)
    monkeypatch.setattr(rows, "SMALLEST", 3)
    monkeypatch.setattr(places, "SMALLEST", 1)
    monkeypatch.setattr(places, "SHARE", 10)
    monkeypatch.setattr(places, "SHARE_OF_RUNS", 5)
    found = rewired(MAKE[name], method)
    assert found[0] == wanted[0]
    assert torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("name", MAKE)
def test_runs_of_places_score_as_lists_of_them(name, monkeypatch):
    """``gradient`` is asked for runs; a criterion that says nothing, for lists of places."""
    monkeypatch.setattr(places, "SMALLEST", 1)
    monkeypatch.setattr(places, "SHARE", 10)
    asked = []

    def scores(layer, flat):
        asked.append(type(flat))
        return gradient(layer, flat)

    found = {}
    for on_whole in (False, True):
        criterion = Score("own", scores, reads_gradient=True, on_whole=on_whole)
        monkeypatch.setattr("regrow.methods._rigl.gradient", criterion)
        asked.clear()
        found[on_whole] = rewired(MAKE[name], "rigl")
        assert set(asked) == {slice if on_whole else torch.Tensor}
        assert len(asked) > 4
    assert found[True][0] == found[False][0]
    assert torch.equal(found[True][1], found[False][1])


def test_weights_and_gradients_at_any_places_and_in_runs():
    layer = SparseLinear(7, 5, sparsity=0.6, bias=False)
    weight = CompactWeight("weight", [layer])
    dense = layer.dense_weight().reshape(-1)
    for low, high in ((0, 35), (3, 20), (7, 14), (9, 10), (5, 5)):
        assert torch.equal(weight.weight_at(slice(low, high)), dense[low:high])
    assert torch.equal(weight.weight_at(slice(None)), dense)
    others = (layer.topology.indices + 1).clamp(max=34)  # as many as there are connections
    for flat in (torch.tensor([34, 0, 5, 5, 12]), torch.arange(35), torch.arange(0, 35, 2), others):
        assert torch.equal(weight.weight_at(flat), dense[flat])
    weight.watch()
    x, dy = torch.randn(4, 7), torch.randn(4, 5)
    layer(x).backward(dy)
    weight.begin(0, 1, weight.keep_dense_grad(copy=False))
    wanted = (dy.t() @ x).reshape(-1)
    torch.testing.assert_close(weight.grad_at(slice(3, 20)), wanted[3:20])
    both = product(Score("w", lambda one, flat: one.weight_at(flat)), gradient)
    torch.testing.assert_close(both(weight, slice(3, 20)), (dense * wanted.abs())[3:20])
    weight.begin(0, 1, None)
    assert torch.equal(weight.grad_at(slice(3, 20)), torch.zeros(17))
