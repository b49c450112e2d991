"""New memory for large results, in huge pages where Linux gives them on request.

A result of some megabytes is fresh memory at every step, and the system hands it over page by page,
at the first write: on a virtual machine that took 13 to 100 ms for 32 MiB, longer than the sparse
convolution that wrote it, against 4 ms in huge pages (benchmarks/ops/sparse_conv.py). torch asks
for them itself where THP_MEM_ALLOC_ENABLE=1 is set.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LARGE = 4 * 2**20
"""Bytes from which on it is asked for: at least one whole huge page of 2 MiB."""


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    """The system's function, or None where there are no huge pages to ask for."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    function.restype = ctypes.c_int
    return function


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A new contiguous tensor on the CPU, with any content."""
    tensor = torch.empty(tuple(shape), dtype=dtype)
    advise, n_bytes = _madvise(), tensor.numel() * tensor.element_size()
    if advise is not None and n_bytes >= LARGE:
        # Whole pages inside it only. (Advice that is not taken changes nothing.)
        first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (tensor.data_ptr() + n_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        advise(first, last - first, mmap.MADV_HUGEPAGE)
    return tensor
