"""Sparse convolutions as sparse products of unfolded inputs, on any back end of the products.

The input is unfolded (every neighbourhood becomes a column) for a few samples at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from regrow.ops._backend import Backend, Pattern
from regrow.ops._conv_plan import Sizes
from regrow.ops._layout import column_form

AT_ONCE = 2**24
"""Unfolded entries held at a time; at least those of one sample."""


def _parts(sizes: Sizes) -> Iterator[slice]:
    d, h, w = sizes.output
    entries = sizes.n_in * sizes.n_taps * d * h * w
    step = max(1, AT_ONCE // max(1, entries))
    return (slice(at, at + step) for at in range(0, sizes.n_samples, step))


def _pattern_of_group(
    row_ptr: Tensor, columns: Tensor, sizes: Sizes, group: int, *, with_columns: bool
) -> tuple[Pattern, slice]:
    """The rows of one group, and where its values lie."""
    n_rows = sizes.n_out // sizes.groups
    n_in = sizes.n_in // sizes.groups * sizes.n_taps
    starts = row_ptr[group * n_rows : (group + 1) * n_rows + 1]
    own = slice(int(starts[0]), int(starts[-1]))
    starts, of_group = starts - starts[0], columns[own]
    if not with_columns:
        return Pattern(starts, of_group, None, None, None, n_in), own
    form = column_form(starts, of_group, n_in)
    return Pattern(starts, of_group, form.col_ptr, form.rows, form.order, n_in), own


def _windows(padded: Tensor, sizes: Sizes) -> Tensor:
    """(C, taps..., B, output...) view of (B, C, padded...)."""
    size = (sizes.n_in, *sizes.kernel, padded.shape[0], *sizes.output)
    sample, channel, *steps = padded.stride()
    taps = (step * d for step, d in zip(steps, sizes.dilation, strict=True))
    pixels = (step * s for step, s in zip(steps, sizes.stride, strict=True))
    return padded.as_strided(size, (channel, *taps, sample, *pixels))


def _unfolded(x: Tensor, sizes: Sizes, group: int) -> Tensor:
    """Neighbourhoods of one group of channels: (samples and pixels, C * taps), feature-major."""
    d, h, w = sizes.padding
    windows = _windows(F.pad(x, (w, w, h, h, d, d)).contiguous(), sizes)
    in_group = sizes.n_in // sizes.groups
    own = windows[group * in_group : (group + 1) * in_group]
    return own.reshape(in_group * sizes.n_taps, -1).t()


def _folded(dx_columns: Tensor, dx: Tensor, sizes: Sizes, group: int) -> None:
    """Add what ``_unfolded`` would have copied from there to the padded ``dx`` (B, C, ...)."""
    in_group = sizes.n_in // sizes.groups
    terms = dx_columns.t().reshape(in_group, *sizes.kernel, dx.shape[0], *sizes.output)
    windows = _windows(dx, sizes)[group * in_group : (group + 1) * in_group]
    for i in range(sizes.kernel[0]):
        for j in range(sizes.kernel[1]):
            for k in range(sizes.kernel[2]):
                windows[:, i, j, k] += terms[:, i, j, k]


def _rows_of(dy: Tensor, sizes: Sizes, group: int) -> Tensor:
    """(B, O, output...) as (samples and pixels, O of one group), feature-major."""
    n_rows = sizes.n_out // sizes.groups
    own = dy[:, group * n_rows : (group + 1) * n_rows]
    return own.transpose(0, 1).reshape(n_rows, -1).t()


def forward(
    backend: Backend, values: Tensor, x: Tensor, bias: Tensor | None,
    row_ptr: Tensor, columns: Tensor, sizes: Sizes,
) -> Tensor:  # fmt: skip
    """See ``ConvBackend.forward``."""
    y = x.new_empty((sizes.n_samples, sizes.n_out, *sizes.output))
    n_rows = sizes.n_out // sizes.groups
    for group in range(sizes.groups):
        pattern, own = _pattern_of_group(row_ptr, columns, sizes, group, with_columns=False)
        rows = slice(group * n_rows, (group + 1) * n_rows)
        added = None if bias is None else bias[rows]
        for part in _parts(sizes):
            found = backend.product(values[own], _unfolded(x[part], sizes, group), added, pattern)
            y[part, rows] = found.t().view(n_rows, -1, *sizes.output).transpose(0, 1)
    return y


def input_gradient(
    backend: Backend, values: Tensor, dy: Tensor, row_ptr: Tensor, columns: Tensor, sizes: Sizes
) -> Tensor:
    """See ``ConvBackend.input_gradient``."""
    dx = dy.new_empty((sizes.n_samples, sizes.n_in, *sizes.source))
    groups = [
        _pattern_of_group(row_ptr, columns, sizes, group, with_columns=True)
        for group in range(sizes.groups)
    ]
    for part in _parts(sizes):
        inner = dx[part]
        size = [n + 2 * p for n, p in zip(sizes.source, sizes.padding, strict=True)]
        # (The sums of narrow types are wide.)
        wide = torch.promote_types(dy.dtype, torch.float32)
        padded = dy.new_zeros((inner.shape[0], sizes.n_in, *size), dtype=wide)
        for group, (pattern, own) in enumerate(groups):
            rows = _rows_of(dy[part], sizes, group)
            terms = backend.transposed_product(values[own], rows, pattern)
            _folded(terms, padded, sizes, group)
        for dim, (n, p) in enumerate(zip(sizes.source, sizes.padding, strict=True)):
            padded = padded.narrow(dim + 2, p, n)
        inner.copy_(padded)
    return dx


def value_gradient(
    backend: Backend, dy: Tensor, x: Tensor, row_ptr: Tensor, columns: Tensor, sizes: Sizes
) -> Tensor:
    """See ``ConvBackend.value_gradient``."""
    wide = torch.promote_types(x.dtype, torch.float32)
    found = x.new_zeros(columns.shape, dtype=wide)
    for group in range(sizes.groups):
        pattern, own = _pattern_of_group(row_ptr, columns, sizes, group, with_columns=False)
        for part in _parts(sizes):
            rows, neighbours = _rows_of(dy[part], sizes, group), _unfolded(x[part], sizes, group)
            found[own] += backend.sampled_product(rows, neighbours, pattern)
    return found.to(x.dtype)


def on(backend: Backend) -> tuple[functools.partial[Tensor], ...]:
    """Forward, input gradient and value gradient on the products of a back end."""
    return tuple(
        functools.partial(function, backend)
        for function in (forward, input_gradient, value_gradient)
    )
