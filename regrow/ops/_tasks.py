"""The kernels as a task: a compiled function of one block, for threads that know nothing of numba.

The block is a list of parts, see ``_blocks``; ``_numba`` fills in the entries of each, in the order
in which they are read here. So a pass through a layer, with what puts its samples in order, is one
call: waking threads costs as much as a small product. The task is compiled, or loaded from numba's
cache on disk, when a dtype first needs it. Imports numba: loaded on first use.
"""

# ruff: noqa: ANN001, ANN202 (numba and llvmlite are untyped)
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import functools

import numpy as np
import torch

from regrow._optional import require
from regrow.ops import _kernels
from regrow.ops._blocks import (
    claim,
    entry,
    finish,
    int32s,
    int64s,
    numbers,
    part_at,
    sums,
    wait_for,
)
from regrow.ops._compile import c_function, inlined
from regrow.ops._kernels import product, sampled, step_of, transposed
from regrow.ops._parts import AWAITED, GATHER, HEADER, KIND, PRODUCT, SIZE, TILES
from regrow.ops._threads import Task
from regrow.ops._vectors import LANES_F32, LANES_F64

numba = require("numba", extra="sparse")
types = numba.types
WIDEST_F32, WIDEST_F64 = _kernels.WIDEST_F32, _kernels.WIDEST_F64

TAGS = {torch.float32: types.float32, torch.float64: types.float64, torch.bfloat16: types.int16}
"""bfloat16 is handed over as the 16 bits that it is."""


@inlined
def _product_part(part):
    """Units of (tile, rows)."""
    n_in, n_batch, n_out = entry(part, 1), entry(part, 2), entry(part, 3)
    widest, columns_at_once, n_chunk = entry(part, 4), entry(part, 5), entry(part, 6)
    nnz, n_order, n_bias, batch_first = (
        entry(part, 7),
        entry(part, 8),
        entry(part, 9),
        entry(part, 10),
    )
    n_chunks = (n_out + n_chunk - 1) // n_chunk
    tiles = numbers(part, 11, n_in * n_batch)
    row_ptr, columns = int64s(part, 12, n_out + 1), int32s(part, 13, nnz)
    values, order = numbers(part, 14, nnz), int32s(part, 15, n_order)
    bias, y = sums(part, 16, n_bias), sums(part, 17, n_out * n_batch)
    cursor = np.empty(n_chunk, np.int64)
    scratch = np.empty(n_chunk * widest if batch_first else 0, y.dtype)
    unit = claim(part)
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
        unit = claim(part)


@inlined
def _sampled_part(part):
    """Units of rows."""
    n_in, n_batch, n_out = entry(part, 1), entry(part, 2), entry(part, 3)
    widest, columns_at_once, n_chunk, nnz = (
        entry(part, 4),
        entry(part, 5),
        entry(part, 6),
        entry(part, 7),
    )
    tiles, dy_tiles = numbers(part, 8, n_in * n_batch), numbers(part, 9, n_out * n_batch)
    row_ptr, columns = int64s(part, 10, n_out + 1), int32s(part, 11, nnz)
    out = sums(part, 12, nnz)
    cursor = np.empty(n_chunk, np.int64)
    first = claim(part) * n_chunk
    while first < n_out:
        last = min(first + n_chunk, n_out)
        sampled(
            tiles, n_in, n_batch, row_ptr, columns, dy_tiles, n_out, out, first, last, widest,
            columns_at_once, cursor,
        )  # fmt: skip
        first = claim(part) * n_chunk


@inlined
def _tiles_part(part):
    """Units of features, into tiles: from batch-first rows, or from feature-major ones."""
    n_in, n_batch, widest = entry(part, 1), entry(part, 2), entry(part, 3)
    feature_major, n_chunk = entry(part, 4), entry(part, 5)
    x, tiles = numbers(part, 6, n_in * n_batch), numbers(part, 7, n_in * n_batch)
    lanes = LANES_F64 if x.itemsize == 8 else LANES_F32
    first = claim(part) * n_chunk
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
        finish(part)
        first = claim(part) * n_chunk


@inlined
def _gather_part(part):
    """out[k] = values[order[k]], in units of ``n_chunk``."""
    nnz, n_chunk = entry(part, 1), entry(part, 2)
    values, order, out = numbers(part, 3, nnz), int32s(part, 4, nnz), numbers(part, 5, nnz)
    first = claim(part) * n_chunk
    while first < nnz:
        for k in range(first, min(first + n_chunk, nnz)):
            out[k] = values[order[k]]
        finish(part)
        first = claim(part) * n_chunk


def parts_task(block):
    """The parts of a block."""
    at, before = HEADER, 0
    for _ in range(entry(block, 0)):
        part = part_at(block, at)
        awaited = entry(part, AWAITED)
        if awaited:
            wait_for(part_at(part, -before), awaited)
        kind = entry(part, KIND)
        if kind == TILES:
            _tiles_part(part)
        elif kind == GATHER:
            _gather_part(part)
        elif kind == PRODUCT:
            _product_part(part)
        else:
            _sampled_part(part)
        before = entry(part, SIZE)
        at += before


@functools.cache
def task(dtype: torch.dtype) -> Task:
    """The task for one dtype."""
    signature = types.void(types.CPointer(TAGS[dtype]))
    return Task(c_function(signature, parts_task))
