"""The kernels as tasks: compiled functions of one block, for threads that know nothing of numba.

Entry 0 of a block is the counter of units, see ``_blocks``; ``_numba`` fills in the others, in the
order in which they are read here. Each task is compiled, or loaded from
numba's cache on disk, when a dtype first needs it. Imports numba: loaded on first use.
"""

# ruff: noqa: ANN001, ANN202 (numba and llvmlite are untyped)
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import functools

import numpy as np
import torch

from regrow._optional import require
from regrow.ops import _kernels
from regrow.ops._blocks import claim, entry, int32s, int64s, numbers, sums
from regrow.ops._compile import c_function
from regrow.ops._kernels import product, sampled, step_of, transposed
from regrow.ops._threads import Task
from regrow.ops._vectors import LANES_F32, LANES_F64

numba = require("numba", extra="sparse")
types = numba.types
WIDEST_F32, WIDEST_F64 = _kernels.WIDEST_F32, _kernels.WIDEST_F64

TAGS = {torch.float32: types.float32, torch.float64: types.float64, torch.bfloat16: types.int16}
"""bfloat16 is handed over as the 16 bits that it is."""


def product_task(block):
    """Units of (tile, rows). Entries: see ``_numba._multiply``."""
    n_in, n_batch, n_out = entry(block, 1), entry(block, 2), entry(block, 3)
    widest, columns_at_once, n_chunk = entry(block, 4), entry(block, 5), entry(block, 6)
    nnz, n_order, n_bias, batch_first = (
        entry(block, 7),
        entry(block, 8),
        entry(block, 9),
        entry(block, 10),
    )
    n_chunks = (n_out + n_chunk - 1) // n_chunk
    tiles = numbers(block, 11, n_in * n_batch)
    row_ptr, columns = int64s(block, 12, n_out + 1), int32s(block, 13, nnz)
    values, order = numbers(block, 14, nnz), int32s(block, 15, n_order)
    bias, y = sums(block, 16, n_bias), sums(block, 17, n_out * n_batch)
    cursor = np.empty(n_chunk, np.int64)
    scratch = np.empty(n_chunk * widest if batch_first else 0, y.dtype)
    unit = claim(block)
    b, step, tile = 0, 0, 0
    while True:
        while b < n_batch and tile < unit // n_chunks:
            b += widest >> step_of(n_batch - b, widest)
            tile += 1
        if b >= n_batch:
            break
        step = step_of(n_batch - b, widest)
        width = widest >> step
        first = unit % n_chunks * n_chunk
        last = min(first + n_chunk, n_out)
        target, at, stride = y, first * n_batch + b, n_batch
        if batch_first:
            target, at, stride = scratch, 0, width
        if n_order:
            product(
                tiles, n_in, b * n_in, step, width, row_ptr, columns, values, order, bias,
                target, at, stride, first, last, columns_at_once, cursor,
            )  # fmt: skip
        else:
            product(
                tiles, n_in, b * n_in, step, width, row_ptr, columns, values, None, bias,
                target, at, stride, first, last, columns_at_once, cursor,
            )  # fmt: skip
        if batch_first:
            lanes = LANES_F64 if y.itemsize == 8 else LANES_F32
            transposed(scratch, 0, width, last - first, width, y, b * n_out + first, n_out, lanes)
        unit = claim(block)


def sampled_task(block):
    """Units of rows."""
    n_in, n_batch, n_out = entry(block, 1), entry(block, 2), entry(block, 3)
    widest, columns_at_once, n_chunk, nnz = (
        entry(block, 4),
        entry(block, 5),
        entry(block, 6),
        entry(block, 7),
    )
    tiles, dy_tiles = numbers(block, 8, n_in * n_batch), numbers(block, 9, n_out * n_batch)
    row_ptr, columns = int64s(block, 10, n_out + 1), int32s(block, 11, nnz)
    out = sums(block, 12, nnz)
    cursor = np.empty(n_chunk, np.int64)
    first = claim(block) * n_chunk
    while first < n_out:
        last = min(first + n_chunk, n_out)
        sampled(
            tiles, n_in, n_batch, row_ptr, columns, dy_tiles, n_out, out, first, last, widest,
            columns_at_once, cursor,
        )  # fmt: skip
        first = claim(block) * n_chunk


def tiles_task(block):
    """Units of features, into tiles: from batch-first rows, or from feature-major ones."""
    n_in, n_batch, widest = entry(block, 1), entry(block, 2), entry(block, 3)
    feature_major, n_chunk = entry(block, 4), entry(block, 5)
    x, tiles = numbers(block, 6, n_in * n_batch), numbers(block, 7, n_in * n_batch)
    lanes = LANES_F64 if x.itemsize == 8 else LANES_F32
    first = claim(block) * n_chunk
    while first < n_in:
        last = min(first + n_chunk, n_in)
        b = 0
        while b < n_batch:
            width = widest >> step_of(n_batch - b, widest) if widest else n_batch
            to = b * n_in + first * width
            if feature_major:
                for i in range(first, last):
                    for j in range(width):
                        tiles[to + (i - first) * width + j] = x[i * n_batch + b + j]
            else:
                transposed(x, b * n_in + first, n_in, width, last - first, tiles, to, width, lanes)
            b += width
        first = claim(block) * n_chunk


def gather_task(block):
    """out[k] = values[order[k]], in units of ``n_chunk``."""
    nnz, n_chunk = entry(block, 1), entry(block, 2)
    values, order, out = numbers(block, 3, nnz), int32s(block, 4, nnz), numbers(block, 5, nnz)
    first = claim(block) * n_chunk
    while first < nnz:
        for k in range(first, min(first + n_chunk, nnz)):
            out[k] = values[order[k]]
        first = claim(block) * n_chunk


FUNCTIONS = {
    "product": product_task,
    "sampled": sampled_task,
    "tiles": tiles_task,
    "gather": gather_task,
}


@functools.cache
def task(name: str, dtype: torch.dtype) -> Task:
    """The task of that name for one dtype."""
    signature = types.void(types.CPointer(TAGS[dtype]))
    return Task(c_function(signature, FUNCTIONS[name]))
