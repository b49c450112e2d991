"""The numba kernels: one unit of a product each, over part of the rows and one tile of the batch.

Legend: B batch, I inputs, O outputs; ``x_IB`` is feature-major, a flat array of (I, B). ``tiles``
holds the same numbers tile by tile: (I, width) of the first ``widest`` samples, then of the next,
then of narrower tiles for what is left; up to ``widest`` samples that are a power of two it is
``x_IB`` itself. (Rows of a wide ``x_IB`` lie a power of two apart, so that they would fall into the
same few places of the caches.)

Columns are done in blocks, so that the part of a tile they read stays in a cache while the rows of
the unit pass over it. Units write to different places, and every sum is formed in the same order
however the work is split.

Equivalent PyTorch: ``W @ x_IB`` and ``(dy_OB @ x_IB.T)[mask]``. Runs on every CPU that numba
compiles for. Imports numba: loaded on first use.
"""

# ruff: noqa: ANN001, ANN202 (numba and llvmlite are untyped)
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from regrow.ops import _compile, _vectors
from regrow.ops._vectors import DOTS, LANES_F32, LANES_F64, ROWS, prefetch, transpose_square

kernel, inlined = _compile.kernel, _compile.inlined

ROW0, ROW1, ROW2, ROW3, ROW4, ROW5, ROW6, ROW7 = ROWS
DOT0, DOT1, DOT2, DOT3, DOT4, DOT5, DOT6, DOT7 = DOTS
WIDEST_F32 = _vectors.N_VECTORS * LANES_F32
WIDEST_F64 = _vectors.N_VECTORS * LANES_F64
AHEAD = 2
"""Rows between the one at work and the one whose connections are fetched."""
FETCHED = 64
"""Connections fetched: the processor sees by itself how to go on. Where columns are done in blocks,
each row has a short run of connections, far from the row before; without fetching them ahead a
product at 90 % and 4096 columns takes half as long again."""
FAR = 1 << 20
ROWS_AHEAD = 4
"""Where a tile has more bytes than FAR and so few connections that it is not done in blocks, inputs
come from memory: those of the row so many ahead are asked for. At a million columns and five
connections a row that is two to three times as fast."""


@inlined
def step_of(left, widest):
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


@inlined
def _fetch(columns, weights, k):
    """Ask for the connections from ``k`` on, which come next."""
    for ahead in range(k, k + FETCHED, 16):
        prefetch(columns, ahead)
        if weights is not None:
            prefetch(weights, ahead)


@inlined
def _fetch_inputs(tiles, at, width, columns, weights, places, k, end):
    """Ask for the inputs of the connections from ``k`` on, and for weights that lie anywhere."""
    for ahead in range(k, min(k + FETCHED, end)):
        first = at + columns[ahead] * width
        for line in range(0, width, 64 // tiles.itemsize):
            prefetch(tiles, first + line)
        if places is not None:
            prefetch(weights, places[ahead])


@inlined
def product(
    tiles, n_in, at, step, width, row_ptr, columns, values, order, bias, y, y_at, y_stride, first,
    last, block, cursor,
):  # fmt: skip
    """y[r] = bias[r] + the sum of values[k] * x[columns[k]] over the connections of row r.

    For the tile at ``at`` and rows ``first`` to ``last``; row r goes to y_at + (r - first) *
    y_stride. ``order`` is None or where each value lies; ``bias`` is of the sums' type, or empty.
    """
    zero = y.dtype.type(0)
    far = block >= n_in and n_in * width * tiles.itemsize > FAR
    for r in range(first, last):
        cursor[r - first] = row_ptr[r]
    # (Without columns a row is still its bias.)
    for low in range(0, max(n_in, 1), block):
        limit = low + block if low + block < n_in else n_in
        for r in range(first, last):
            if block < n_in and r + AHEAD < last:
                if order is None:
                    _fetch(columns, values, cursor[r + AHEAD - first])
                else:
                    _fetch(columns, order, cursor[r + AHEAD - first])
            if far and r + ROWS_AHEAD < last:
                _fetch_inputs(
                    tiles, at, width, columns, values, order, row_ptr[r + ROWS_AHEAD],
                    row_ptr[r + ROWS_AHEAD + 1],
                )  # fmt: skip
            start = bias[r] if bias.size else zero
            cursor[r - first] = _row(
                step, tiles, at, width, columns, values, order, cursor[r - first],
                row_ptr[r + 1], limit, y, y_at + (r - first) * y_stride, start, low > 0,
            )  # fmt: skip


@inlined
def sampled(
    tiles, n_in, n_batch, row_ptr, columns, dy_tiles, n_out, out, first, last, widest, block, cursor
):
    """out[k] = the sum over the batch of dy_OB[r] * x_IB[columns[k]], for the k of row r."""
    b = 0
    while b < n_batch:
        step = step_of(n_batch - b, widest)
        width = widest >> step
        far = block >= n_in and n_in * width * tiles.itemsize > FAR
        for r in range(first, last):
            cursor[r - first] = row_ptr[r]
        for low in range(0, n_in, block):
            limit = low + block if low + block < n_in else n_in
            for r in range(first, last):
                if block < n_in and r + AHEAD < last:
                    _fetch(columns, None, cursor[r + AHEAD - first])
                if far and r + ROWS_AHEAD < last:
                    _fetch_inputs(
                        tiles, b * n_in, width, columns, None, None, row_ptr[r + ROWS_AHEAD],
                        row_ptr[r + ROWS_AHEAD + 1],
                    )  # fmt: skip
                cursor[r - first] = _dot(
                    step, tiles, b * n_in, width, columns, cursor[r - first], row_ptr[r + 1],
                    limit, out, dy_tiles, b * n_out + r * width, b > 0,
                )  # fmt: skip
        b += width


@inlined
def transposed(source, at, stride, n_rows, n_columns, target, to, to_stride, lanes):
    """target[to + j * to_stride + i] = source[at + i * stride + j]: n_rows by n_columns of them."""
    whole = n_rows // lanes * lanes
    for j in range(0, n_columns, lanes):
        squares = whole if j + lanes <= n_columns else 0
        for i in range(0, squares, lanes):
            place = to + j * to_stride + i
            transpose_square(source, at + i * stride + j, stride, target, place, to_stride)
        for c in range(j, min(j + lanes, n_columns)):
            for i in range(squares, n_rows):
                target[to + c * to_stride + i] = source[at + i * stride + c]


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
