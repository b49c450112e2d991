"""The numba kernels: whole products over part of the rows and part of the batch.

Legend: B batch, I inputs, O outputs; ``x_IB`` is feature-major, a flat array of (I, B). ``tiles``
holds the same numbers tile by tile: (I, width) of the first ``widest`` samples, then of the next,
then of narrower tiles for what is left; up to ``widest`` samples that are a power of two it is
``x_IB`` itself. (Rows of a wide ``x_IB`` lie a power of two apart, so that they would fall into the
same few places of the caches.)

A call does rows ``first`` to ``last`` and the batch from ``b_first`` to ``b_last``; calls on
different parts write to different places, and every sum is formed in the same order however the
work is split.

Equivalent PyTorch: ``W @ x_IB`` and ``(dy_OB @ x_IB.T)[mask]``. Runs on every CPU that numba
compiles for. Imports numba: loaded on first use.
"""

# ruff: noqa: ANN001, ANN202, N803 (numba and llvmlite are untyped)
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import numpy as np

from regrow._optional import require
from regrow.ops import _vectors
from regrow.ops._vectors import DOTS, LANES_F32, LANES_F64, ROWS, prefetch, transpose_square

numba = require("numba", extra="sparse")
kernel = numba.njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
inlined = numba.njit(nogil=True, boundscheck=False, error_model="numpy", forceinline=True)

ROW0, ROW1, ROW2, ROW3, ROW4, ROW5, ROW6, ROW7 = ROWS
DOT0, DOT1, DOT2, DOT3, DOT4, DOT5, DOT6, DOT7 = DOTS
WIDEST_F32 = _vectors.N_VECTORS * LANES_F32
WIDEST_F64 = _vectors.N_VECTORS * LANES_F64
CACHED_BYTES = 256 * 1024
"""Of a tile of inputs that is to stay in the second-level cache while all rows are done."""


AHEAD = 2
"""Rows between the one at work and the one whose connections are fetched."""
FETCHED = 64
"""Connections fetched: the processor sees by itself how to go on. Where columns are done in blocks,
each row has a short run of connections, far from the row before; without fetching them ahead a
product at 90 % and 4096 columns takes half as long again."""


@kernel
def _step_of(left, widest):
    """Number of the widest tile that fits in what is left of the batch."""
    step = 0
    while (widest >> step) > left:
        step += 1
    return step


@inlined
def _row(step, x, at, stride, columns, values, order, k, end, limit, y, y_at, start, resume):
    if step == 0:
        return ROW0(x, at, stride, columns, values, order, k, end, limit, y, y_at, start, resume)
    if step == 1:
        return ROW1(x, at, stride, columns, values, order, k, end, limit, y, y_at, start, resume)
    if step == 2:
        return ROW2(x, at, stride, columns, values, order, k, end, limit, y, y_at, start, resume)
    if step == 3:
        return ROW3(x, at, stride, columns, values, order, k, end, limit, y, y_at, start, resume)
    if step == 4:
        return ROW4(x, at, stride, columns, values, order, k, end, limit, y, y_at, start, resume)
    if step == 5:
        return ROW5(x, at, stride, columns, values, order, k, end, limit, y, y_at, start, resume)
    if step == 6:
        return ROW6(x, at, stride, columns, values, order, k, end, limit, y, y_at, start, resume)
    return ROW7(x, at, stride, columns, values, order, k, end, limit, y, y_at, start, resume)


@inlined
def _dot(step, x, at, stride, columns, k, end, limit, out, y, y_at, resume):
    if step == 0:
        return DOT0(x, at, stride, columns, k, end, limit, out, y, y_at, resume)
    if step == 1:
        return DOT1(x, at, stride, columns, k, end, limit, out, y, y_at, resume)
    if step == 2:
        return DOT2(x, at, stride, columns, k, end, limit, out, y, y_at, resume)
    if step == 3:
        return DOT3(x, at, stride, columns, k, end, limit, out, y, y_at, resume)
    if step == 4:
        return DOT4(x, at, stride, columns, k, end, limit, out, y, y_at, resume)
    if step == 5:
        return DOT5(x, at, stride, columns, k, end, limit, out, y, y_at, resume)
    if step == 6:
        return DOT6(x, at, stride, columns, k, end, limit, out, y, y_at, resume)
    return DOT7(x, at, stride, columns, k, end, limit, out, y, y_at, resume)


@kernel
def _block(n_in, width, itemsize):
    """Columns done at a time: as many as stay in the cache."""
    if n_in * width * itemsize <= CACHED_BYTES:
        return n_in
    return max(1, CACHED_BYTES // (width * itemsize))


@kernel
def product(
    tiles,
    n_in,
    n_batch,
    row_ptr,
    columns,
    values,
    order,
    bias,
    y_OB,
    first,
    last,
    b_first,
    b_last,
    widest,
):
    """y_OB[r] = bias[r] + the sum of values[k] * x_IB[columns[k]] over the connections of row r.

    ``order`` is None or where each value lies; ``bias`` is of the sums' type, or empty.
    """
    cursor = np.empty(last - first, np.int64)
    zero = y_OB.dtype.type(0)
    b = b_first
    while b < b_last:
        step = _step_of(b_last - b, widest)
        width = widest >> step
        cursor[:] = row_ptr[first:last]
        block = _block(n_in, width, tiles.itemsize)
        for low in range(0, n_in, block):
            limit = low + block if low + block < n_in else n_in
            for r in range(first, last):
                if block < n_in and r + AHEAD < last:
                    ahead = cursor[r + AHEAD - first]
                    for k in range(ahead, ahead + FETCHED, 16):
                        prefetch(columns, k)
                        if order is None:
                            prefetch(values, k)
                        else:
                            prefetch(order, k)
                start = bias[r] if bias.size else zero
                cursor[r - first] = _row(
                    step, tiles, b * n_in, width, columns, values, order, cursor[r - first],
                    row_ptr[r + 1], limit, y_OB, r * n_batch + b, start, low > 0,
                )  # fmt: skip
        b += width


@kernel
def sampled(tiles, n_in, n_batch, row_ptr, columns, dy_tiles, n_out, out, first, last, widest):
    """out[k] = the sum over the batch of dy_OB[r] * x_IB[columns[k]], for the k of row r."""
    cursor = np.empty(last - first, np.int64)
    b = 0
    while b < n_batch:
        step = _step_of(n_batch - b, widest)
        width = widest >> step
        cursor[:] = row_ptr[first:last]
        block = _block(n_in, width, tiles.itemsize)
        for low in range(0, n_in, block):
            limit = low + block if low + block < n_in else n_in
            for r in range(first, last):
                if block < n_in and r + AHEAD < last:
                    ahead = cursor[r + AHEAD - first]
                    for k in range(ahead, ahead + FETCHED, 16):
                        prefetch(columns, k)
                cursor[r - first] = _dot(
                    step, tiles, b * n_in, width, columns, cursor[r - first], row_ptr[r + 1],
                    limit, out, dy_tiles, b * n_out + r * width, b > 0,
                )  # fmt: skip
        b += width


@kernel
def tiles_of_batch_first(x_BI, n_in, n_batch, tiles, first, last, widest, lanes):
    """Features ``first`` to ``last`` of ``tiles``, from (B, I) in rows; ``widest`` 0: one tile."""
    b = 0
    while b < n_batch:
        width = widest >> _step_of(n_batch - b, widest) if widest else n_batch
        at = b * n_in
        whole = width // lanes * lanes
        for j in range(first, last, lanes):
            squares = whole if j + lanes <= last else 0
            for i in range(0, squares, lanes):
                transpose_square(x_BI, at + i * n_in + j, n_in, tiles, at + j * width + i, width)
            for c in range(j, min(j + lanes, last)):
                for i in range(squares, width):
                    tiles[at + c * width + i] = x_BI[at + i * n_in + c]
        b += width


@kernel
def tiles_of_feature_major(x_IB, n_in, n_batch, tiles, first, last, widest):
    """Features ``first`` to ``last`` of ``tiles``, from (I, B) in rows."""
    for i in range(first, last):
        b = 0
        while b < n_batch:
            width = widest >> _step_of(n_batch - b, widest)
            to = b * n_in + i * width
            for j in range(width):
                tiles[to + j] = x_IB[i * n_batch + b + j]
            b += width


@kernel
def gather(values, order, out, first, last):
    """out[k] = values[order[k]]."""
    for k in range(first, last):
        out[k] = values[order[k]]


@kernel
def column_form(row_ptr, columns, col_ptr, rows, order):
    """The same connections by column: ``col_ptr`` (zeros at first), ``rows`` and ``order``."""
    for k in range(columns.size):
        col_ptr[columns[k] + 1] += 1
    for c in range(1, col_ptr.size):
        col_ptr[c] += col_ptr[c - 1]
    place = col_ptr[:-1].copy()
    for r in range(row_ptr.size - 1):
        for k in range(row_ptr[r], row_ptr[r + 1]):
            to = place[columns[k]]
            place[columns[k]] = to + 1
            rows[to] = r
            order[to] = k


@kernel
def carry(old_ptr, old_columns, old, new_ptr, new_columns, new):
    """Copy into ``new`` the values of connections that both have, merging row by row."""
    for r in range(new_ptr.size - 1):
        i = old_ptr[r]
        for k in range(new_ptr[r], new_ptr[r + 1]):
            while i < old_ptr[r + 1] and old_columns[i] < new_columns[k]:
                i += 1
            if i < old_ptr[r + 1] and old_columns[i] == new_columns[k]:
                new[k] = old[i]
