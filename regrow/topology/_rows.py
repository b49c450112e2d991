"""Compressed rows: the connections of a weight in four bytes each, none of the others named."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from regrow.errors import SparsityError
from regrow.topology._arguments import check_tensor
from regrow.topology._structure import Structure
from regrow.topology.structures import Unstructured
from regrow.typing import Shape

LARGEST = 2**31 - 1
PARTS = 16
"""Positions take twice the memory of the columns: all of them are looked at in so many parts."""
SMALLEST = 2**12
"""Positions of a part, at least."""


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
        starts = torch.arange(n_rows + 1, device=positions.device).mul_(n_columns)
        row_ptr = torch.searchsorted(positions, starts)
        columns = positions.new_empty(positions.shape, dtype=torch.int32)
        for low, high in _ranges(positions.numel()):
            columns[low:high] = positions[low:high] % n_columns
        return cls(row_ptr, columns)

    @property
    def nnz(self) -> int:
        """Number of connections."""
        return self.columns.numel()

    def positions(self, shape: Shape) -> Tensor:
        """Flat row-major positions (nnz,) int64, ascending; computed at each call."""
        found = self.columns.new_empty(self.nnz, dtype=torch.int64)
        for low, high in _ranges(self.nnz):
            found[low:high] = self.between(low, high, shape)
        return found

    def between(self, low: int, high: int, shape: Shape) -> Tensor:
        """The positions of connections ``low`` to ``high`` (high - low,) int64."""
        if high <= low:
            return self.row_ptr.new_empty(0)
        ends = self.row_ptr.new_tensor([low, high - 1])
        first, last = torch.searchsorted(self.row_ptr, ends, right=True).tolist()
        counts = self.row_ptr[first - 1 : last + 1].clamp(low, high).diff()
        starts = torch.arange(first - 1, last, device=counts.device).mul_(matrix_shape(shape)[1])
        found = torch.repeat_interleave(starts, counts, output_size=high - low)
        return found.add_(self.columns[low:high])

    def at(self, places: Tensor, shape: Shape) -> Tensor:
        """The positions of some connections (n,) -> (n,) int64."""
        rows = torch.searchsorted(self.row_ptr, places, right=True).sub_(1)
        return rows.mul_(matrix_shape(shape)[1]).add_(self.columns[places])

    def are_at(self, positions: Tensor, shape: Shape) -> bool:
        """Whether these are the positions, all of them and in their order."""
        return positions.numel() == self.nnz and all(
            torch.equal(positions[low:high], self.between(low, high, shape))
            for low, high in _ranges(self.nnz)
        )

    def locate(self, positions: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
        """Where among the connections some positions lie, and which of them do.

        Args:
            positions: (n,) int64 or int32, in any order; ascending ones are the fastest.
            shape: Of the weight.

        Returns:
            (n,) int64, any number in [0, nnz) for what does not lie there, and (n,) bool.
        """
        if bool((positions[1:] < positions[:-1]).any()):
            positions, order = positions.sort()
            found = self.locate(positions, shape)
            places, there = (torch.empty_like(one).index_copy_(0, order, one) for one in found)
            return places, there
        places = positions.new_zeros(positions.shape, dtype=torch.int64)
        there = positions.new_zeros(positions.shape, dtype=torch.bool)
        for low, high, first, last in self._met(positions, shape):
            wanted = positions[first:last].to(torch.int64)
            part = self.between(low, high, shape)
            at = torch.searchsorted(part, wanted).clamp_(max=high - low - 1)
            there[first:last] = part[at] == wanted
            places[first:last] = at.add_(low)
        return places, there

    def exchanged(self, gone: Tensor, more: Tensor, shape: Shape) -> Rows:
        """Less some positions, which are there, and with others, which are not.

        Args:
            gone: (n,) int64 or int32, ascending.
            more: (m,), likewise.
            shape: Of the weight.
        """
        n_rows, n_columns = matrix_shape(shape)
        row_ptr = torch.empty_like(self.row_ptr)
        columns = self.columns.new_empty(self.nnz - gone.numel() + more.numel())
        lows = [low for low, _ in _ranges(self.nnz)][1:]
        starts = self.at(self.row_ptr.new_tensor(lows), shape)
        cuts = [[0, *_cuts(one, starts), one.numel()] for one in (gone, more)]
        # A row is counted in the part that its first place belongs to.
        edges = [0, *(starts.add(n_columns - 1) // n_columns).tolist(), n_rows + 1]
        n_done = 0
        for i, (low, high) in enumerate(zip([0, *lows], [*lows, self.nnz], strict=True)):
            out, new = (
                one[cut[i] : cut[i + 1]].to(torch.int64)
                for one, cut in zip((gone, more), cuts, strict=True)
            )
            part = merged(without(self.between(low, high, shape), out), new)
            heads = torch.arange(edges[i], edges[i + 1], device=part.device).mul_(n_columns)
            row_ptr[edges[i] : edges[i + 1]] = torch.searchsorted(part, heads).add_(n_done)
            columns[n_done : n_done + part.numel()] = part % n_columns
            n_done += part.numel()
        return Rows(row_ptr, columns)

    def _met(self, positions: Tensor, shape: Shape) -> Iterator[tuple[int, int, int, int]]:
        """(low, high, first, last): positions[first:last] lie among connections low to high."""
        ranges = list(_ranges(self.nnz)) if self.nnz else []
        starts = self.at(self.row_ptr.new_tensor([low for low, _ in ranges[1:]]), shape)
        edges = [0, *_cuts(positions, starts), positions.numel()]
        for (low, high), first, last in zip(ranges, edges, edges[1:], strict=False):
            if first < last:
                yield low, high, first, last

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


def _ranges(n: int) -> Iterator[tuple[int, int]]:
    """(low, high) of each part of ``n`` positions; one part at least."""
    step = max(SMALLEST, -(-n // PARTS))
    for low in range(0, max(n, 1), step):
        yield low, min(low + step, n)


def _cuts(positions: Tensor, starts: Tensor) -> list[int]:
    """How many of some ascending positions lie below each start."""
    if starts.numel() and int(starts[-1]) > LARGEST:
        positions = positions.to(torch.int64)
    found: list[int] = torch.searchsorted(positions, starts.to(positions.dtype)).tolist()
    return found


def elements_in_order(structure: Structure, shape: Shape, units: Tensor) -> Tensor:
    """All elements of some units, ascending."""
    if isinstance(structure, Unstructured):
        return units
    return structure.elements_of(units.to(torch.int64), shape).reshape(-1).sort().values


def without(positions: Tensor, gone: Tensor) -> Tensor:
    """Ascending positions less some of them, which must be ascending and all there."""
    if not gone.numel():
        return positions
    stays = torch.ones(positions.numel(), dtype=torch.bool, device=positions.device)
    stays[torch.searchsorted(positions, gone)] = False
    return positions[stays]


def merged(positions: Tensor, more: Tensor) -> Tensor:
    """Two ascending runs of positions that share none, as one."""
    if not more.numel() or not positions.numel():
        return more if more.numel() else positions
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
        positions: (m,) int64 or int32, ascending.
        queries: (n,), likewise, in any order; ascending ones are the fastest.

    Returns:
        (n,) bool.

    Example:
        >>> are_among(torch.tensor([1, 4, 6]), torch.tensor([4, 5])).tolist()
        [True, False]
    """
    if not positions.numel():
        return torch.zeros_like(queries, dtype=torch.bool)
    if positions.dtype != queries.dtype:
        positions, queries = positions.to(torch.int64), queries.to(torch.int64)
    at = torch.searchsorted(positions, queries).clamp_(max=positions.numel() - 1)
    return positions[at] == queries
