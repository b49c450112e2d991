"""Threads, forks and workers: the same bits everywhere."""

import os
import signal
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from regrow.ops import CSR, _numba, _threads, available_backends, sparse_linear
from regrow.topology import derived_generator, random_topology

pytestmark = pytest.mark.skipif(bool(_numba.missing()), reason=_numba.missing() or "numba is here")


@pytest.fixture
def torch_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def case(batch, *, n_out=300, n_in=200, dtype=torch.float32):
    generator = derived_generator(0, "threads")
    counts = torch.tensor([n_out * n_in // 3])
    layout = CSR.of(random_topology((n_out, n_in), counts, generator=generator))
    values = torch.randn(layout.nnz, generator=generator).to(dtype)
    x = torch.randn(batch, n_in, generator=generator).to(dtype)
    dy = torch.randn(batch, n_out, generator=generator).to(dtype)
    return layout, values, x, dy


def step(layout, values, x, dy, backend="numba"):
    values, x = values.clone().requires_grad_(), x.clone().requires_grad_()
    y = sparse_linear(values, layout, x, backend=backend)
    y.backward(dy)
    return y.detach(), x.grad, values.grad


def same(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("batch", [128, 130, 256, 512])
def test_the_number_of_threads_changes_no_bit(torch_threads, monkeypatch, batch, dtype):
    one_by_one = step(*case(batch, dtype=dtype))
    counts = []
    real = _threads.run_task
    monkeypatch.setattr(_threads, "run_task", lambda *a: (counts.append(a[2]), real(*a))[1])
    for n in (2, 3):
        torch_threads(n)
        for openmp in {_threads.uses_openmp(), False}:
            with monkeypatch.context() as patch:
                if not openmp:
                    patch.setattr(_threads, "uses_openmp", lambda: False)
                assert same(step(*case(batch, dtype=dtype)), one_by_one)
                assert n in counts


@pytest.mark.parametrize("openmp", [True, False])
def test_threads_share_the_work(torch_threads, monkeypatch, openmp):
    if not openmp:
        monkeypatch.setattr(_threads, "uses_openmp", lambda: False)
    torch_threads(3)
    seen, together = [], threading.Barrier(3, timeout=20)

    def part(first, last):
        together.wait()  # (so that none can do two parts)
        seen.append((first, last, threading.get_ident()))

    _threads.run(part, [0, 2, 2, 5, 9])
    assert sorted(one[:2] for one in seen) == [(0, 2), (2, 5), (5, 9)]
    assert len({one[2] for one in seen}) == 3
    assert threading.get_ident() in {one[2] for one in seen}
    assert _threads.n_parts(10) == 1
    assert _threads.n_parts(10**9) == 3


def test_torch_has_openmp_here():
    # Without it everything is right, and slow: not to be overlooked where torch has it.
    expected = "OpenMP" in torch.__config__.parallel_info() and sys.platform == "linux"
    assert _threads.uses_openmp() == expected


@pytest.mark.parametrize("openmp", [True, False])
def test_an_error_in_a_thread_is_not_lost(monkeypatch, openmp):
    if not openmp:
        monkeypatch.setattr(_threads, "uses_openmp", lambda: False)

    def fail(first, last):
        if first == 0:
            raise RuntimeError("from a part")

    with pytest.raises(RuntimeError, match="from a part"):
        _threads.run(fail, [0, 1, 2])


def test_equal_work():
    starts = torch.tensor([0, 0, 10, 10, 20, 30, 40]).numpy()
    assert _threads.equal_work(starts, 1) == [0, 6]
    assert _threads.equal_work(starts, 2) == [0, 4, 6]
    bounds = _threads.equal_work(starts, 9)
    assert bounds == sorted(bounds)
    assert bounds[0] == 0
    assert bounds[-1] == 6
    assert _threads.equal_work(torch.zeros(4, dtype=torch.int64).numpy(), 2)[-1] == 3
    assert _threads.equal_runs(100, 2, 16) == [0, 48, 100]
    assert _threads.equal_runs(5, 3, 16)[-1] == 5


def test_many_threads_at_once(torch_threads):
    torch_threads(2)
    expected = step(*case(160))
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(step, *case(160)) for _ in range(12)]:
            assert same(done.result(), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes_the_same(torch_threads, monkeypatch):
    # (Filling new tensors would be OpenMP's work.)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    torch_threads(2)
    layout, values, x, dy = case(160)
    pattern = layout.pattern(with_columns=True)

    def run():
        # Straight through the back end: neither OpenMP nor autograd's threads survive a fork.
        return [
            tensor.numpy().tobytes()
            for tensor in (
                _numba.product(values, x, None, pattern),
                _numba.transposed_product(values, dy, pattern),
                _numba.sampled_product(dy, x, pattern),
            )
        ]

    expected = run()
    child = os.fork()
    if not child:
        signal.alarm(20)  # (a child that hangs is to fail, not to wait)
        os._exit(0 if run() == expected and os.getpid() in _threads._pools else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


class Products(torch.utils.data.Dataset):
    def __init__(self, inputs):
        self.inputs = inputs

    def __len__(self):
        return 2

    def __getitem__(self, index):
        layout, values, x, _ = self.inputs
        return sparse_linear(values, layout, x, backend="numba").contiguous()


def test_a_worker_of_a_loader_computes_the_same(torch_threads):
    torch_threads(2)
    inputs = case(160)
    expected = step(*inputs)[0]
    loader = torch.utils.data.DataLoader(
        Products(inputs),
        batch_size=None,
        num_workers=1,
        multiprocessing_context="fork",
        timeout=30,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
        for found in loader:
            assert torch.equal(found, expected)


def test_repeats_give_the_same_bits():
    for backend in available_backends("cpu", torch.float32):
        first = step(*case(130), backend)
        assert same(step(*case(130), backend), first)
