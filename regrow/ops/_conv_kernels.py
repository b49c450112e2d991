"""The numba kernels of sparse convolutions: see ``_conv_plan`` for the order of the work.

A call does some groups of samples and some target channels; calls on different parts write to
different places, and every sum is formed in the same order however the work is split.

Arrays are flat and of one type, float32 or float64. Imports numba: loaded on first use.
"""

# ruff: noqa: ANN001, ANN202 (numba is untyped)
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import numpy as np

from regrow._optional import require
from regrow.ops._conv_pack import STAGE as STAGE
from regrow.ops._conv_pack import kernel, write_strip
from regrow.ops._conv_pack import pack as pack
from regrow.ops._conv_vectors import DOTS, SHAPES, tile
from regrow.ops._conv_vectors import N_SUMS as N_SUMS
from regrow.ops._vectors import LANES_F32, LANES_F64

numba = require("numba", extra="sparse")
inlined = numba.njit(nogil=True, boundscheck=False, error_model="numpy", forceinline=True)

DOT8, DOT4, DOT2, DOT1 = DOTS
LANES = {4: LANES_F32, 8: LANES_F64}
"""Bytes of an element -> elements of a vector."""
MOST = 16


def _shape_table() -> np.ndarray:
    """(lines left, vectors left), each at most ``MOST`` -> shape of the next tile."""
    table = np.zeros((MOST + 1, MOST + 1), np.int64)
    for lines in range(1, MOST + 1):
        for vectors in range(1, MOST + 1):
            table[lines, vectors] = next(
                i for i, (r, v) in enumerate(SHAPES) if r <= lines and v <= vectors
            )
    return table


SHAPE_TABLE = _shape_table()
SHAPE_SIZES = np.array(SHAPES)


# -- connections ---------------------------------------------------------------------------------


@kernel
def row_connections(
    row_ptr, columns, n_taps, taps, channel, per_block, n_blocks, groups, n_in, ptr, out
):
    """Offsets of the connections of each row, and where each block of channels starts."""
    n_rows = row_ptr.size - 1
    in_group = n_rows // groups
    for r in range(n_rows):
        base = r // in_group * (n_in // groups) * channel
        k, end = row_ptr[r], row_ptr[r + 1]
        for b in range(n_blocks):
            ptr[r * n_blocks + b] = k
            limit = (b + 1) * per_block * n_taps
            while k < end and (b == n_blocks - 1 or columns[k] < limit):
                c = columns[k] // n_taps
                out[k] = base + c * channel + taps[columns[k] - c * n_taps]
                k += 1
    ptr[n_rows * n_blocks] = row_ptr[n_rows]


@kernel
def column_connections(
    row_ptr, columns, values, n_taps, taps, targets, channel, per_block, n_blocks, groups,
    n_in, ptr, out, weights,
):  # fmt: skip
    """Connections ordered by (phase, input channel), output channels ascending; see above.

    ``ptr`` are zeros at first, two more than there are blocks of rows.
    """
    n_rows = row_ptr.size - 1
    in_group, of_group = n_rows // groups, n_in // groups
    for step in range(2):
        for r in range(n_rows):
            group = r // in_group
            b = (r - group * in_group) // per_block
            for k in range(row_ptr[r], row_ptr[r + 1]):
                c = columns[k] // n_taps
                tap = columns[k] - c * n_taps
                row = targets[tap] * n_in + group * of_group + c
                at = row * n_blocks + b + 1
                if step == 0:
                    ptr[at + 1] += 1
                else:
                    to = ptr[at]
                    ptr[at] = to + 1
                    out[to] = r * channel + taps[tap]
                    weights[to] = values[k]
        if step == 0:
            for i in range(1, ptr.size):
                ptr[i] += ptr[i - 1]


# -- products ------------------------------------------------------------------------------------


@inlined
def _sum_lines(
    plan, scratch, x_at, n_lines, n_vectors, phase, ptr, offsets, values, bias, sums, y_at,
    r_first, r_last,
):  # fmt: skip
    """All tiles of some lines of one phase of the target."""
    lanes, n_blocks = plan.lanes, plan.n_blocks
    x_line = plan.q_w * plan.samples
    y_line, y_step = plan.out_h * plan.line, plan.out_w * lanes
    channel = plan.out_d * plan.strip * plan.out_h * plan.line
    zero = sums.dtype.type(0)
    v = 0
    while v < n_vectors:
        r = 0
        width = 1
        while r < n_lines:
            shape = SHAPE_TABLE[min(MOST, n_lines - r), min(MOST, n_vectors - v)]
            height, width = SHAPE_SIZES[shape, 0], SHAPE_SIZES[shape, 1]
            x_tile = x_at + r * x_line + v * lanes
            y_tile = y_at + r * y_line + v * y_step
            for b in range(n_blocks):
                for c in range(r_first, r_last):
                    row = (phase * plan.t_channels + c) * n_blocks + b
                    start = bias[c] if bias.size else zero
                    tile(
                        shape, scratch, x_tile, x_line, offsets, values, ptr[row], ptr[row + 1],
                        sums, c * channel + y_tile, y_line, y_step, start, b > 0,
                    )  # fmt: skip
            r += height
        v += width


@inlined
def _sum_strip(
    plan, scratch, first_d, first_h, m_d, m_h, m_end, ptr, offsets, values, bias, sums,
    r_first, r_last,
):  # fmt: skip
    """All phases of the target lines m_h to m_end at depth m_d."""
    samples = plan.samples
    i_first = max(0, plan.out_h * (m_h + plan.low_h) - plan.pad_h)
    for f_d in range(plan.out_d):
        i_d = plan.out_d * (m_d + plan.low_d) + f_d - plan.pad_d
        if not 0 <= i_d < plan.t_d:
            continue
        for f_h in range(plan.out_h):
            low, high = m_h, m_end
            while low < high and plan.out_h * (low + plan.low_h) + f_h < plan.pad_h:
                low += 1
            while (
                low < high and plan.out_h * (high - 1 + plan.low_h) + f_h - plan.pad_h >= plan.t_h
            ):
                high -= 1
            if low == high:
                continue
            i_h = plan.out_h * (low + plan.low_h) + f_h - plan.pad_h
            for f_w in range(plan.out_w):
                left, right = 0, plan.n_w
                while left < right and plan.out_w * (left + plan.low_w) + f_w < plan.pad_w:
                    left += 1
                while (
                    left < right
                    and plan.out_w * (right - 1 + plan.low_w) + f_w - plan.pad_w >= plan.t_w
                ):
                    right -= 1
                if left == right:
                    continue
                i_w = plan.out_w * (left + plan.low_w) + f_w - plan.pad_w
                x_at = ((m_d - first_d) * plan.q_h + low - first_h) * plan.q_w + left
                y_at = (f_d * plan.strip * plan.out_h + i_h - i_first) * plan.line + i_w * samples
                n_vectors = ((right - left) * samples + plan.lanes - 1) // plan.lanes
                _sum_lines(
                    plan, scratch, x_at * samples, high - low, n_vectors,
                    (f_d * plan.out_h + f_h) * plan.out_w + f_w, ptr, offsets, values, bias,
                    sums, y_at, r_first, r_last,
                )  # fmt: skip


@kernel
def sum_block(
    plan, scratch, ptr, offsets, values, bias, sums, target, group, first_d, first_h,
    r_first, r_last,
):  # fmt: skip
    """Target channels ``r_first`` to ``r_last`` of a block of lines that ``pack`` has copied."""
    for m_d in range(first_d, min(first_d + plan.block_d, plan.n_d)):
        last = min(first_h + plan.block_h, plan.n_h)
        for m_h in range(first_h, last, plan.strip):
            m_end = min(m_h + plan.strip, last)
            _sum_strip(
                plan, scratch, first_d, first_h, m_d, m_h, m_end, ptr, offsets, values, bias,
                sums, r_first, r_last,
            )  # fmt: skip
            write_strip(plan, sums, target, group, m_d, m_h, m_end, r_first, r_last)


@kernel
def sampled_block(
    plan, own, scratch, dy, ptr, offsets, out, first_d, first_h, n_lines, r_first, r_last
):
    """Add to out[k] the sum over one block of lines of dy times x, for the k of some rows.

    ``own`` is the plan by which ``dy`` was copied; ``n_lines`` are done at a time.
    """
    samples = plan.samples
    x_line, dy_line = plan.q_w * samples, own.q_w * samples
    n_vectors = plan.n_w * samples // plan.lanes
    last = min(first_h + plan.block_h, plan.n_h)
    for m_d in range(first_d, min(first_d + plan.block_d, plan.n_d)):
        for m_h in range(first_h, last, n_lines):
            n = min(n_lines, last - m_h)
            at = ((m_d - first_d) * plan.q_h + m_h - first_h) * x_line
            dy_at = ((m_d - first_d) * own.q_h + m_h - first_h) * dy_line
            for b in range(plan.n_blocks):
                for r in range(r_first, r_last):
                    k, end = ptr[r * plan.n_blocks + b], ptr[r * plan.n_blocks + b + 1]
                    row = dy_at + r * own.channel
                    while k + 8 <= end:
                        DOT8(scratch, at, x_line, offsets, k, dy, row, dy_line, n, n_vectors, out)
                        k += 8
                    if k + 4 <= end:
                        DOT4(scratch, at, x_line, offsets, k, dy, row, dy_line, n, n_vectors, out)
                        k += 4
                    if k + 2 <= end:
                        DOT2(scratch, at, x_line, offsets, k, dy, row, dy_line, n, n_vectors, out)
                        k += 2
                    if k < end:
                        DOT1(scratch, at, x_line, offsets, k, dy, row, dy_line, n, n_vectors, out)
