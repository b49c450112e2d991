"""Numba kernels for inputs that are sparse themselves: one sample, or one column, at a time.

``x_ptr``, ``x_columns`` and ``x`` are compressed rows of (B, I): a sample each. Imports numba:
loaded on first use.
"""

# ruff: noqa: ANN001, ANN202, N803 (numba is untyped)
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from regrow.ops._compile import kernel


@kernel
def product(x_ptr, x_columns, x, col_ptr, rows, order, values, y_BO, first, last):
    """Add x @ W.T to samples ``first`` to ``last`` of ``y_BO``: a column of W for each entry."""
    for b in range(first, last):
        for j in range(x_ptr[b], x_ptr[b + 1]):
            i, v = x_columns[j], x[j]
            for k in range(col_ptr[i], col_ptr[i + 1]):
                y_BO[b, rows[k]] += v * values[order[k]]


@kernel
def sampled(
    x_col_ptr,
    samples,
    x_order,
    x,
    col_ptr,
    rows,
    order,
    dy_BO,
    out,
    first,
    last,
):
    """out[order[k]] = the sum of x[b, i] * dy[b, rows[k]], for the k of columns ``first`` on.

    ``x_col_ptr``, ``samples`` and ``x_order`` are the column form of ``x``.
    """
    for i in range(first, last):
        for k in range(col_ptr[i], col_ptr[i + 1]):
            out[order[k]] = 0
        for j in range(x_col_ptr[i], x_col_ptr[i + 1]):
            b, v = samples[j], x[x_order[j]]
            for k in range(col_ptr[i], col_ptr[i + 1]):
                out[order[k]] += v * dy_BO[b, rows[k]]
