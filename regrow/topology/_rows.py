"""Compressed rows: the connections of a weight in four bytes each, none of the others named."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from regrow.errors import SparsityError
from regrow.topology._arguments import check_tensor
from regrow.topology._structure import Structure
from regrow.topology.structures import Unstructured
from regrow.typing import Shape

LARGEST = 2**31 - 1


class Rows(NamedTuple):
    """The connections of a weight as a matrix (outputs, everything else).

    Args:
        row_ptr: (n_rows + 1,) int64; row r has the connections row_ptr[r] to row_ptr[r + 1].
        columns: (nnz,) int32, ascending within a row.
    """

    row_ptr: Tensor
    columns: Tensor

    @classmethod
    def of(cls, positions: Tensor, shape: Shape) -> Rows:
        """From flat positions (nnz,), ascending int64."""
        n_rows, n_columns = matrix_shape(shape)
        starts = torch.arange(n_rows + 1, device=positions.device) * n_columns
        row_ptr = torch.searchsorted(positions, starts)
        columns = positions.new_empty(positions.shape, dtype=torch.int32)
        torch.remainder(positions, n_columns, out=columns)
        return cls(row_ptr, columns)

    def positions(self, shape: Shape) -> Tensor:
        """Flat row-major positions (nnz,) int64, ascending; computed at each call."""
        n_rows, n_columns = matrix_shape(shape)
        starts = torch.arange(n_rows, device=self.columns.device) * n_columns
        counts = self.row_ptr.diff()
        found = torch.repeat_interleave(starts, counts, output_size=self.columns.numel())
        return found.add_(self.columns)

    def to(self, device: torch.device | str) -> Rows:
        """The same on another device."""
        return Rows(self.row_ptr.to(device), self.columns.to(device))

    def same(self, other: Rows) -> bool:
        """Whether both hold the same connections."""
        return torch.equal(self.columns, other.columns) and torch.equal(self.row_ptr, other.row_ptr)


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """A weight as a matrix: the first dimension, and all others as one."""
    return (shape[0] if shape else 1), math.prod(shape[1:])


def fits_rows(shape: Shape) -> bool:
    """Whether columns of such a weight fit in int32."""
    return max(matrix_shape(shape)) <= LARGEST


def check_rows(row_ptr: object, columns: object, shape: Shape) -> Rows:
    """``row_ptr`` and ``columns`` as the rows of a weight of ``shape``.

    Raises:
        TypeError: No tensor.
        SparsityError: Another dtype or length; rows out of order; columns out of order, repeated
            or out of range; or a weight with too many rows or columns.
    """
    rows = Rows(check_tensor(row_ptr, "row_ptr"), check_tensor(columns, "columns"))
    if not fits_rows(shape) or rows.columns.numel() > LARGEST:
        raise SparsityError(
            f"a weight in compressed rows has at most {LARGEST} rows, columns and connections; "
            f"got the shape {shape} and {rows.columns.numel()} connections"
        )
    n_rows, n_columns = matrix_shape(shape)
    wanted = ((torch.int64, (n_rows + 1,)), (torch.int32, (rows.columns.numel(),)))
    for name, tensor, (dtype, size) in zip(Rows._fields, rows, wanted, strict=True):
        if tensor.dtype != dtype or tuple(tensor.shape) != size:
            raise SparsityError(
                f"{name} must be {dtype} of shape {size} for a weight of shape {shape}, got "
                f"{tensor.dtype} of shape {tuple(tensor.shape)}"
            )
    if rows.row_ptr.device != rows.columns.device:
        raise SparsityError(
            f"row_ptr is on {rows.row_ptr.device} and columns on {rows.columns.device}; use one "
            "device"
        )
    ends = int(rows.row_ptr[0]), int(rows.row_ptr[-1])
    if ends != (0, rows.columns.numel()) or bool((rows.row_ptr.diff() < 0).any()):
        raise SparsityError(
            f"row_ptr must rise from 0 to the number of columns, {rows.columns.numel()}; got {ends}"
        )
    if rows.columns.numel():
        low, high = int(rows.columns.min()), int(rows.columns.max())
        if low < 0 or high >= n_columns:
            raise SparsityError(f"columns must lie in [0, {n_columns}), got {low} to {high}")
        if not _ascend(rows):
            raise SparsityError("columns must ascend within each row, without repeats")
    return rows


def _ascend(rows: Rows) -> bool:
    falls = rows.columns[1:] <= rows.columns[:-1]
    # A row may start below the end of the one before.
    starts = rows.row_ptr[1:-1]
    inside = (starts > 0) & (starts < rows.columns.numel())
    falls[starts[inside] - 1] = False
    return not bool(falls.any())


def elements_in_order(structure: Structure, shape: Shape, units: Tensor) -> Tensor:
    """All elements of some units, ascending."""
    elements = structure.elements_of(units, shape).reshape(-1)
    return elements if isinstance(structure, Unstructured) else elements.sort().values


def without(positions: Tensor, gone: Tensor) -> Tensor:
    """Ascending positions less some of them, which must be ascending and all there."""
    if not gone.numel():
        return positions
    stays = torch.ones(positions.numel(), dtype=torch.bool, device=positions.device)
    stays[torch.searchsorted(positions, gone)] = False
    return positions[stays]


def merged(positions: Tensor, more: Tensor) -> Tensor:
    """Two ascending runs of positions that share none, as one."""
    if not more.numel():
        return positions
    result = positions.new_empty(positions.numel() + more.numel())
    at = torch.searchsorted(positions, more)
    at += torch.arange(more.numel(), device=more.device)
    is_old = torch.ones(result.numel(), dtype=torch.bool, device=result.device)
    is_old[at] = False
    result[at] = more
    result.masked_scatter_(is_old, positions)
    return result


def are_among(positions: Tensor, queries: Tensor) -> Tensor:
    """Whether each query is one of some ascending numbers.

    Args:
        positions: (m,) int64, ascending.
        queries: (n,) int64, in any order; ascending ones are the fastest.

    Returns:
        (n,) bool.

    Example:
        >>> are_among(torch.tensor([1, 4, 6]), torch.tensor([4, 5])).tolist()
        [True, False]
    """
    if not positions.numel():
        return torch.zeros_like(queries, dtype=torch.bool)
    at = torch.searchsorted(positions, queries).clamp_(max=positions.numel() - 1)
    return positions[at] == queries
