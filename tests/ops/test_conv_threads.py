"""Threads and forks: sparse convolutions give the same bits everywhere."""

import os
import signal

import pytest
import torch

from regrow.ops import CSR, _conv_numba, _numba, _threads, sparse_conv
from regrow.ops._conv_plan import Sizes
from regrow.topology import derived_generator, random_topology

pytestmark = pytest.mark.skipif(bool(_numba.missing()), reason=_numba.missing() or "numba is here")


@pytest.fixture
def torch_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def case(batch, *, stride=1, dtype=torch.float32, hw=16):
    generator = derived_generator(0, "conv threads")
    counts = torch.tensor([16 * 24 * 9 // 3])
    layout = CSR.of(random_topology((16, 24 * 9), counts, generator=generator))
    values = torch.randn(layout.nnz, generator=generator).to(dtype)
    x = torch.randn(batch, 24, hw, hw, generator=generator).to(dtype)
    dy = torch.randn(batch, 16, hw // stride, hw // stride, generator=generator).to(dtype)
    return layout, values, x, dy, stride


def step(layout, values, x, dy, stride):
    values, x = values.clone().requires_grad_(), x.clone().requires_grad_()
    y = sparse_conv(
        values, layout, x, kernel_size=(3, 3), padding=1, stride=stride, backend="numba"
    )
    y.backward(dy)
    return y.detach(), x.grad, values.grad


def same(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("batch", "stride"), [(40, 1), (16, 2), (16, 1), (3, 1), (32, 2)])
def test_the_number_of_threads_changes_no_bit(torch_threads, monkeypatch, batch, stride, dtype):
    monkeypatch.setattr(_threads, "n_parts", lambda n_flops: torch.get_num_threads())
    one_by_one = step(*case(batch, stride=stride, dtype=dtype))
    parts = []
    real = _threads.run
    monkeypatch.setattr(
        _threads, "run", lambda f, bounds: (parts.append(len(bounds) - 1), real(f, bounds))[1]
    )
    for n in (2, 3):
        torch_threads(n)
        assert same(step(*case(batch, stride=stride, dtype=dtype)), one_by_one)
        assert n in parts


def test_repeats_give_the_same_bits():
    assert same(step(*case(33)), step(*case(33)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes_the_same(torch_threads, monkeypatch):
    # (Filling new tensors would be OpenMP's work.)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    monkeypatch.setattr(_threads, "n_parts", lambda n_flops: 2)
    torch_threads(2)
    layout, values, x, dy, _ = case(40)
    x, dy = x.unsqueeze(2), dy.unsqueeze(2)
    sizes = Sizes(40, 24, 16, (1, 16, 16), (1, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1), 1)
    tensors = layout.row_ptr, layout.columns

    def run():
        # Straight through the back end: neither OpenMP nor autograd's threads survive a fork.
        return [
            tensor.numpy().tobytes()
            for tensor in (
                _conv_numba.forward(values, x, None, *tensors, sizes),
                _conv_numba.input_gradient(values, dy, *tensors, sizes),
                _conv_numba.value_gradient(dy, x, *tensors, sizes),
            )
        ]

    expected = run()
    child = os.fork()
    if not child:
        signal.alarm(20)  # (a child that hangs is to fail, not to wait)
        os._exit(0 if run() == expected else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
