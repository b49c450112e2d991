"""Memory for large results: the same tensors, whatever the system makes of the advice."""

import pytest
import torch

from regrow.errors import SparsityError
from regrow.ops import _conv_memory
from regrow.ops._conv_plan import Sizes, make_plan


@pytest.mark.parametrize("shape", [(), (0, 3), (5, 7), (3, 1024, 1024)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_new_memory(shape, dtype):
    tensor = _conv_memory.empty(shape, dtype)
    assert tensor.shape == shape
    assert tensor.dtype == dtype
    assert tensor.is_contiguous()
    assert bool((tensor.fill_(3) == 3).all())


def test_only_whole_pages_inside_a_large_tensor_are_advised(monkeypatch):
    calls = []
    monkeypatch.setattr(_conv_memory, "_madvise", lambda: lambda *given: calls.append(given))
    _conv_memory.empty((1000,), torch.float32)
    assert not calls
    tensor = _conv_memory.empty((_conv_memory.LARGE // 4 + 77,), torch.float32)
    page = _conv_memory.mmap.PAGESIZE
    first, n_bytes, _ = calls[0]
    assert first % page == 0
    assert n_bytes % page == 0
    assert 0 <= first - tensor.data_ptr() < page
    assert 0 <= tensor.data_ptr() + 4 * tensor.numel() - (first + n_bytes) < page


def test_a_system_without_huge_pages(monkeypatch):
    monkeypatch.setattr(_conv_memory, "_madvise", lambda: None)
    assert _conv_memory.empty((_conv_memory.LARGE,), torch.float32).shape == (_conv_memory.LARGE,)


def test_lines_too_long_for_the_offsets_are_refused():
    sizes = Sizes(16, 64, 1, (1, 1, 2**22), (1, 1, 3), (1, 1, 1), (0, 0, 0), (1, 1, 1), 1)
    with pytest.raises(SparsityError, match='use backend="reference"'):
        make_plan(sizes, backward=False, samples=16, lanes=16, n_sums=16, itemsize=4)
