"""backend="auto": measured once for each shape, batch and sparsity, and remembered."""

import json

import pytest
import torch

from regrow.ops import CSR, _measured, sparse_conv, sparse_linear, use_backend
from regrow.topology import random_topology

N = 512


def layout_of(n: int, sparsity: float) -> CSR:
    count = round(n * n * (1 - sparsity))
    return CSR.of(random_topology((n, n), count, generator=torch.Generator().manual_seed(0)))


def run(layout: CSR, n_batch: int) -> torch.Tensor:
    values = torch.ones(layout.nnz, requires_grad=True)
    return sparse_linear(values, layout, torch.ones(n_batch, layout.shape[1]))


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Two back ends are there, and the names that were timed are noted."""
    monkeypatch.setattr(_measured, "_known", {})
    monkeypatch.setattr(_measured, "available_backends", lambda *_: ["numba", "torch", "reference"])
    monkeypatch.setenv("REGROW_CACHE_DIR", str(tmp_path / "cache"))
    timed = []
    slow = {"numba": 1.0, "torch": 0.1}

    def measure(able, step):
        timed.append(tuple(able))
        return min(able, key=slow.__getitem__)

    monkeypatch.setattr(_measured, "_measure", measure)
    return timed


def test_each_shape_batch_and_sparsity_is_timed_once(measured) -> None:
    pytest.importorskip("numba")
    layout = layout_of(N, 0.9)
    for _ in range(3):
        run(layout, 128)
    assert measured == [("numba", "torch")], "the plain reference is no candidate"
    assert set(_measured._known.values()) == {"torch"}
    run(layout_of(N, 0.905), 129)
    run(layout_of(N, 0.9), 255)
    assert len(measured) == 1, "near enough"
    run(layout_of(N, 0.6), 128)
    run(layout, 1000)
    assert len(measured) == 3, "much denser, and a much larger batch"


def test_times_are_kept_on_disk(measured) -> None:
    pytest.importorskip("numba")
    run(layout_of(N, 0.9), 128)
    _measured._known.clear()
    run(layout_of(N, 0.9), 128)
    assert len(measured) == 1
    path = _measured.cache_file()
    assert list(json.loads(path.read_text())) == [_measured._machine()]
    for damaged in ("", "[]", "{", json.dumps({_measured._machine(): 3})):
        path.write_text(damaged)
        _measured._known.clear()
        run(layout_of(N, 0.9), 128)
    assert len(measured) == 5
    assert json.loads(path.read_text())[_measured._machine()]
    assert [one.name for one in path.parent.iterdir()] == [path.name], "no left-overs"


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(
    measured, monkeypatch, tmp_path
) -> None:
    pytest.importorskip("numba")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REGROW_CACHE_DIR", str(tmp_path / "file"))
    run(layout_of(N, 0.9), 128)
    assert len(measured) == 1


def test_small_work_and_what_was_asked_for_are_not_timed(measured) -> None:
    run(layout_of(16, 0.5), 4)
    with use_backend("reference"):
        run(layout_of(N, 0.9), 128)
    layout = layout_of(N, 0.9)
    sparse_linear(torch.ones(layout.nnz), layout, torch.ones(128, N), backend="torch")
    assert not measured


def test_convolutions_too(measured) -> None:
    pytest.importorskip("numba")
    layout = CSR.of(
        random_topology((64, 64, 3, 3), 3686, generator=torch.Generator().manual_seed(0))
    )
    x = torch.ones(16, 64, 16, 16)
    for n in (1, 1, 8):
        batch = x.repeat(n, 1, 1, 1)
        sparse_conv(torch.ones(layout.nnz), layout, batch, kernel_size=(3, 3), padding=1)
    assert len(measured) == 2


def test_both_are_really_run() -> None:
    """A later back end is taken only if it is clearly faster."""
    calls = []

    def step(name: str) -> None:
        calls.append(name)
        end = _measured.time.perf_counter() + (0.002 if name == slow else 0.0)
        while _measured.time.perf_counter() < end:
            pass

    slow = "first"
    assert _measured._measure(("first", "second"), step) == "second"
    assert calls.count("first") == calls.count("second") == 1 + _measured.ROUNDS
    slow = "second"
    assert _measured._measure(("first", "second"), step) == "first"
    slow = ""
    assert _measured._measure(("first", "second"), lambda _: None) in ("first", "second")
