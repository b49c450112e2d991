"""The operations as functions of values, a layout and dense activations.

Legend: B batch (any leading dimensions), I inputs, O outputs, W the matrix that ``values`` and
``layout`` stand for.
"""

# ruff: noqa: N803, N806 (shape letters)

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from regrow._checks import described
from regrow.errors import SparsityError
from regrow.ops._autograd import linear, nobody_listens, refuse_tangents
from regrow.ops._backend import Pattern
from regrow.ops._dispatch import BY_NAME, asked, chosen
from regrow.ops._layout import CSR, new_column_form
from regrow.ops._measured import fastest
from regrow.ops._register import OPS
from regrow.ops._sparse_input import is_sparse_input, read

KINDS = 64
"""Kinds of calls that a layout remembers to have checked."""


def product(values: Tensor, layout: CSR, x: Tensor, *, backend: str = "auto") -> Tensor:
    """Multiply by the matrix: ``x @ W.T``.

    Args:
        values: (nnz,) floating, in the order of the layout.
        layout: Where they belong.
        x: (..., n_in), of the same dtype and device; any strides.
        backend: "auto", "numba", "torch" or "reference".

    Returns:
        (..., n_out), feature-major in memory. Differentiable in ``values`` and ``x``.

    Raises:
        TypeError: Another type or dtype.
        ValueError: Other sizes or devices, or an unknown back end.
        BackendUnavailableError: The back end cannot run; the message says why.

    Example:
        >>> from regrow.topology import Topology
        >>> layout = CSR.of(Topology(torch.tensor([0, 3]), (2, 2)))
        >>> product(torch.tensor([2.0, 3.0]), layout, torch.ones(1, 2)).tolist()
        [[2.0, 3.0]]
    """
    return sparse_linear(values, layout, x, backend=backend)


def sparse_linear(
    values: Tensor,
    layout: CSR,
    x: Any,  # noqa: ANN401 - a tensor, or a matrix of scipy, which need not be there
    *,
    bias: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """A linear layer whose weight is sparse: ``x @ W.T + bias``.

    The gradient of ``x`` has the memory order of ``x``. A sparse ``x`` is never made dense, and
    gets no gradient.

    Args:
        values: (nnz,) floating, in the order of the layout.
        layout: Where they belong.
        x: (..., n_in), of the same dtype and device; any strides. Or a sparse (B, n_in): a
            ``scipy.sparse`` matrix in compressed rows, or a tensor of ``torch.sparse_csr``.
        bias: (n_out,) of the same dtype, or None.
        backend: "auto" (the faster one, measured once for each shape, batch and sparsity),
            "numba", "torch" or "reference".

    Returns:
        (..., n_out), feature-major in memory, or batch-first for a sparse ``x``. Differentiable in
        ``values``, a dense ``x``, and ``bias``.

    Raises:
        TypeError: Another type or dtype.
        ValueError: Other sizes or devices, or an unknown back end.
        BackendUnavailableError: The back end cannot run; the message says why.
    """
    given = values is not None and x is not None
    given = given and isinstance(layout, CSR) and isinstance(backend, str)
    if given and nobody_listens((values, x, bias)) and x.layout is torch.strided:
        # All that the checks read, and the choice of the back end: checked once.
        kind = (
            *(x.shape, x.dtype, x.device, values.shape, values.dtype, values.device),
            None if bias is None else (bias.shape, bias.dtype, bias.device),
            *(backend, asked(), torch.get_num_threads()),
        )
        name = layout.checked.get(kind)
        if name is None:
            name = _checked(values, layout, x, bias, backend)
            name = _fastest(values, layout, _rows_of(x), backend) or name
            if len(layout.checked) == KINDS:
                layout.checked.clear()
            layout.checked[kind] = name
        pattern = layout.pattern(with_columns=x.requires_grad and torch.is_grad_enabled())
        if x.dim() == 2:
            return linear(values, x, bias, pattern, name)
        return _as_before(linear(values, _rows_of(x), bias, pattern, name), x)
    name = _checked(values, layout, x, bias, backend)
    if is_sparse_input(x):
        return _of_sparse(values, layout, x, bias, name)
    pattern = layout.pattern(with_columns=x.requires_grad and torch.is_grad_enabled())
    y_BO: Tensor = OPS.product(values, _rows_of(x), bias, *pattern[:-1], name)
    return _as_before(y_BO, x)


def _checked(
    values: Tensor,
    layout: CSR,
    x: Any,  # noqa: ANN401
    bias: Tensor | None,
    backend: str,
) -> str:
    """The name of a back end that can run the call, once all is found in order."""
    n_out, n_in = _check_layout(layout).shape
    _check_values(values, layout)
    if not is_sparse_input(x):
        _check_dense(x, "x", n_in, values)
    refuse_tangents(values, x, bias)
    if bias is not None:
        _check_like(bias, "bias", values)
        if bias.shape != (n_out,):
            raise SparsityError(f"bias must have shape ({n_out},), got {tuple(bias.shape)}")
    return chosen(backend, values.device, values.dtype)


def _fastest(values: Tensor, layout: CSR, x_BI: Tensor, backend: str) -> str | None:
    """What "auto" stands for, where there is something to choose."""
    if backend != "auto":
        return None

    @torch.no_grad()
    def step(name: str) -> None:
        able, own = BY_NAME[name], values.detach()
        y = able.product(own, x_BI.detach(), None, pattern())
        able.gradients(own, y, x_BI.detach(), pattern(), (True, True), batch_first=True)

    @functools.cache
    def pattern() -> Pattern:
        # (Not the layout's own column form: it shall keep no more than the layer needs.)
        sides = layout.row_ptr, layout.columns
        return Pattern(*sides, *new_column_form(*sides, layout.shape[1]), layout.shape[1])

    return fastest(
        "linear",
        layout.shape,
        nnz=layout.nnz,
        n_batch=x_BI.shape[0],
        device=values.device,
        dtype=values.dtype,
        step=step,
    )


def _of_sparse(
    values: Tensor,
    layout: CSR,
    x: Any,  # noqa: ANN401
    bias: Tensor | None,
    name: str,
) -> Tensor:
    found = read(x)
    _check_like(found.data, "x", values)
    if found.shape[1] != layout.shape[1]:
        raise SparsityError(f"x must have {layout.shape[1]} columns, got the shape {found.shape}")
    y: Tensor = OPS.sparse_input_product(
        values, *found[:3], *layout.column_form, layout.shape[0], name
    )
    return y if bias is None else y + bias


def transposed_product(values: Tensor, layout: CSR, dy: Tensor, *, backend: str = "auto") -> Tensor:
    """Multiply by the transposed matrix: ``dy @ W``.

    Args:
        values: (nnz,) floating, in the order of the layout.
        layout: Where they belong.
        dy: (..., n_out), of the same dtype and device; any strides.
        backend: "auto", "numba", "torch" or "reference".

    Returns:
        (..., n_in), feature-major in memory. Differentiable in ``values`` and ``dy``.

    Raises:
        TypeError: Another type or dtype.
        ValueError: Other sizes or devices, or an unknown back end.
        BackendUnavailableError: The back end cannot run; the message says why.
    """
    n_out, n_in = _check_layout(layout).shape
    _check_values(values, layout)
    _check_dense(dy, "dy", n_out, values)
    name = chosen(backend, values.device, values.dtype)
    pattern = layout.pattern(with_columns=True)
    dx_BI = OPS.transposed_product(values, _rows_of(dy), *pattern[:-1], n_in, name)
    return _as_before(dx_BI, dy)


def sampled_product(layout: CSR, dy: Tensor, x: Tensor, *, backend: str = "auto") -> Tensor:
    """Entries of ``dy.T @ x`` at the connections: the gradient of the values of a product.

    Args:
        layout: Which entries.
        dy: (..., n_out) floating.
        x: (..., n_in), of the same leading sizes, dtype and device.
        backend: "auto", "numba", "torch" or "reference".

    Returns:
        (nnz,) in the order of the layout. Differentiable in ``dy`` and ``x``.

    Raises:
        TypeError: Another type or dtype.
        ValueError: Other sizes or devices, or an unknown back end.
        BackendUnavailableError: The back end cannot run; the message says why.
    """
    _check_layout(layout)
    dy_BO, x_BI = _pair(dy, x, layout.shape, layout.device)
    name = chosen(backend, x.device, x.dtype)
    pattern = layout.pattern(with_columns=torch.is_grad_enabled() and x.requires_grad)
    found: Tensor = OPS.sampled_product(dy_BO, x_BI, *pattern[:-1], name)
    return found


def sampled_at(
    rows: Tensor, columns: Tensor, dy: Tensor, x: Tensor, *, backend: str = "auto"
) -> Tensor:
    """Entries of ``dy.T @ x`` at any positions, in any order, repeats allowed: growth scores.

    Args:
        rows: (n,) integer, in [0, n_out). Ascending ones need no sorting.
        columns: (n,) integer, in [0, n_in).
        dy: (..., n_out) floating.
        x: (..., n_in), of the same leading sizes, dtype and device.
        backend: "auto", "numba", "torch" or "reference".

    Returns:
        (n,); entry i is that at rows[i], columns[i].

    Raises:
        TypeError: Another type or dtype.
        ValueError: Other sizes or devices, positions outside, or an unknown back end.
        BackendUnavailableError: The back end cannot run; the message says why.

    Example:
        >>> dy, x = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 5.0]])
        >>> sampled_at(torch.tensor([1, 0]), torch.tensor([1, 0]), dy, x).tolist()
        [10.0, 3.0]
    """
    _check_tensor(dy, "dy")
    _check_tensor(x, "x")
    shape = (dy.shape[-1], x.shape[-1]) if dy.dim() and x.dim() else (0, 0)
    for argument, places, size in (("rows", rows, shape[0]), ("columns", columns, shape[1])):
        _check_places(places, argument, size, x.device)
    if rows.shape != columns.shape:
        raise SparsityError(
            f"rows and columns must be equally many, got {rows.numel()} and {columns.numel()}"
        )
    dy_BO, x_BI = _pair(dy, x, shape, x.device)
    name = chosen(backend, x.device, x.dtype)
    order = None
    if bool((rows.diff() < 0).any()):
        rows, order = torch.sort(rows, stable=True)
        columns = columns[order]
    starts = torch.arange(shape[0] + 1, device=rows.device, dtype=rows.dtype)
    row_ptr = torch.searchsorted(rows.contiguous(), starts)
    found: Tensor = OPS.sampled_product(
        dy_BO, x_BI, row_ptr, columns.to(torch.int32).contiguous(), None, None, None, name
    )
    if order is None:
        return found
    return torch.empty_like(found).index_copy(0, order, found)


def to_dense(values: Tensor, layout: CSR) -> Tensor:
    """The matrix with its zeros.

    Args:
        values: (nnz,) any dtype, in the order of the layout.
        layout: Where they belong.

    Returns:
        (n_out, n_in) of the same dtype. Differentiable in ``values``.

    Raises:
        TypeError: Another type.
        ValueError: Other sizes or devices.

    Example:
        >>> from regrow.topology import Topology
        >>> to_dense(torch.tensor([2.0, 3.0]), CSR.of(Topology(torch.tensor([0, 3]), (2, 2))))
        tensor([[2., 0.],
                [0., 3.]])
    """
    _check_layout(layout)
    _check_values(values, layout)
    n_out, n_in = layout.shape
    dense = values.new_zeros(n_out * n_in)
    return dense.index_copy(0, layout.positions, values).view(n_out, n_in)


def _rows_of(x: Tensor) -> Tensor:
    """(..., n) as (B, n)."""
    return x if x.dim() == 2 else x.reshape(x.shape[:-1].numel(), x.shape[-1])


def _as_before(y_BO: Tensor, x: Tensor) -> Tensor:
    return y_BO if x.dim() == 2 else y_BO.reshape(*x.shape[:-1], y_BO.shape[1])


def _pair(
    dy: Tensor, x: Tensor, shape: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """``dy`` and ``x`` checked, as (B, n_out) and (B, n_in)."""
    _check_dense(dy, "dy", shape[0], dy)
    _check_dense(x, "x", shape[1], dy)
    if dy.shape[:-1] != x.shape[:-1]:
        raise SparsityError(
            f"dy and x must have the same leading sizes, got {tuple(dy.shape)} and {tuple(x.shape)}"
        )
    if x.device != device:
        raise SparsityError(
            f"x is on {x.device}, the layout on {device}; use layout.to({x.device})"
        )
    return _rows_of(dy), _rows_of(x)


def _check_layout(layout: CSR) -> CSR:
    if not isinstance(layout, CSR):
        raise TypeError(f"layout must be a CSR, got {layout!r:.80}; make one with CSR.of(topology)")
    return layout


def _check_tensor(tensor: Tensor, argument: str) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{argument} must be a tensor, got {described(tensor)}")


def _check_values(values: Tensor, layout: CSR) -> None:
    _check_tensor(values, "values")
    if values.shape != (layout.nnz,):
        raise SparsityError(
            f"values must have shape ({layout.nnz},), one a connection, got {tuple(values.shape)}"
        )
    if values.device != layout.device:
        raise SparsityError(
            f"values are on {values.device}, the layout on {layout.device}; "
            f"use layout.to({values.device})"
        )


def _check_like(tensor: Tensor, argument: str, like: Tensor) -> None:
    _check_tensor(tensor, argument)
    if tensor.dtype != like.dtype:
        raise TypeError(
            f"{argument} must have one dtype with the others, {like.dtype}; got {tensor.dtype}"
        )
    if tensor.device != like.device:
        raise SparsityError(f"{argument} must be on {like.device}, got {tensor.device}")


def _check_dense(tensor: Tensor, argument: str, n_features: int, like: Tensor) -> None:
    _check_like(tensor, argument, like)
    if not tensor.dim() or tensor.shape[-1] != n_features:
        raise SparsityError(
            f"{argument} must have {n_features} features in its last dimension, "
            f"got the shape {tuple(tensor.shape)}"
        )


def _check_places(places: Tensor, argument: str, size: int, device: torch.device) -> None:
    _check_tensor(places, argument)
    if places.dtype not in (torch.int32, torch.int64) or places.dim() != 1:
        raise TypeError(
            f"{argument} must be one-dimensional int32 or int64, "
            f"got {tuple(places.shape)} {places.dtype}"
        )
    if places.device != device:
        raise SparsityError(f"{argument} must be on {device}, got {places.device}")
    if places.numel() and (int(places.min()) < 0 or int(places.max()) >= size):
        raise SparsityError(
            f"{argument} must lie in [0, {size}), got {int(places.min())} to {int(places.max())}"
        )
