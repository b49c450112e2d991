"""The layout of one sparse matrix: where each of its values belongs."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from regrow.errors import SparsityError
from regrow.ops import _numba
from regrow.ops._backend import Pattern
from regrow.topology import Topology

LARGEST = 2**31 - 1
_known: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Columns -> (whose they are, their column form). Operations are handed the tensors of a layout
without it where they were traced."""


class ColumnForm(NamedTuple):
    """The same connections column by column.

    ``col_ptr`` (n_in + 1,) int64, ``rows`` (nnz,) int32, and ``order`` (nnz,) int32, the place of
    each connection among the values.
    """

    col_ptr: Tensor
    rows: Tensor
    order: Tensor


@final
class CSR:
    """Compressed rows of a (n_out, n_in) matrix. Immutable; treat its tensors as read-only.

    Values (nnz,) go with ascending flat row-major positions, as ``Topology.indices`` does.

    Args:
        row_ptr: (n_out + 1,) int64; row r has the connections row_ptr[r] to row_ptr[r + 1].
        columns: (nnz,) int32, ascending within a row, without repeats, in [0, n_in).
        shape: (n_out, n_in).

    Raises:
        TypeError: A tensor is none or of another dtype.
        SparsityError: The tensors do not describe a matrix of this shape.

    Example:
        >>> from regrow.topology import Topology
        >>> layout = CSR.of(Topology(torch.tensor([0, 4, 5]), (2, 3)))
        >>> layout.row_ptr.tolist(), layout.columns.tolist(), layout.nnz
        ([0, 1, 3], [0, 1, 2], 3)
    """

    def __init__(self, row_ptr: Tensor, columns: Tensor, shape: tuple[int, int]) -> None:
        _check_dtype(row_ptr, "row_ptr", torch.int64)
        _check_dtype(columns, "columns", torch.int32)
        shape = _check_shape(tuple(shape), columns.numel())
        self._adopt(row_ptr, columns, shape)
        self._check()

    def _adopt(self, row_ptr: Tensor, columns: Tensor, shape: tuple[int, int]) -> None:
        self.row_ptr = row_ptr
        self.columns = columns
        self.shape = shape
        self.fastest: dict[tuple[object, ...], str | None] = {}
        self.checked: dict[tuple[object, ...], str] = {}
        self.convolutions: dict[tuple[object, ...], tuple[tuple[Any, ...], str]] = {}

    @classmethod
    def of(cls, topology: Topology) -> CSR:
        """The layout of a topology.

        Args:
            topology: Of any structure; of a weight of more than two dimensions, such as that of a
                convolution, all but the first are taken as one.

        Returns:
            Its layout, on the same device; it shares the memory of a compact topology.

        Raises:
            TypeError: No topology.
            SparsityError: Without dimensions, or too large.
        """
        if not isinstance(topology, Topology):
            raise TypeError(f"topology must be a Topology, got {topology!r:.80}")
        if not topology.shape:
            raise SparsityError("a layout has rows and columns; got a topology without dimensions")
        n_out, *rest = topology.shape
        shape = _check_shape((n_out, math.prod(rest)), topology.nnz)
        self = cls.__new__(cls)
        self._adopt(*topology.csr, shape)
        return self

    def _check(self) -> None:
        n_out, n_in = self.shape
        row_ptr, columns = self.row_ptr, self.columns
        if row_ptr.shape != (n_out + 1,) or columns.dim() != 1:
            raise SparsityError(
                f"row_ptr must have shape ({n_out + 1},) and columns one dimension, got "
                f"{tuple(row_ptr.shape)} and {tuple(columns.shape)}"
            )
        if row_ptr.device != columns.device:
            raise SparsityError(
                f"row_ptr is on {row_ptr.device} and columns on {columns.device}; use one device"
            )
        ends = int(row_ptr[0]), int(row_ptr[-1])
        if ends != (0, self.nnz) or bool((row_ptr.diff() < 0).any()):
            raise SparsityError(
                f"row_ptr must rise from 0 to the number of columns, {self.nnz}; got {ends}"
            )
        if self.nnz and (int(columns.min()) < 0 or int(columns.max()) >= n_in):
            raise SparsityError(
                f"columns must lie in [0, {n_in}), got {int(columns.min())} to {int(columns.max())}"
            )
        if bool((self.positions.diff() <= 0).any()):
            raise SparsityError("columns must ascend within each row, without repeats")

    @property
    def nnz(self) -> int:
        """Number of connections."""
        return self.columns.numel()

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.columns.device

    @property
    def rows(self) -> Tensor:
        """Row of each connection (nnz,) int64; computed at each call."""
        n_out = self.shape[0]
        return torch.repeat_interleave(
            torch.arange(n_out, device=self.device), self.row_ptr.diff(), output_size=self.nnz
        )

    @property
    def positions(self) -> Tensor:
        """Flat row-major position of each connection (nnz,) int64; computed at each call."""
        return self.rows.mul_(self.shape[1]).add_(self.columns)

    @cached_property
    def column_form(self) -> ColumnForm:
        """The same connections column by column; computed once, in O(nnz) memory."""
        return column_form(self.row_ptr, self.columns, self.shape[1])

    def pattern(self, *, with_columns: bool) -> Pattern:
        """The tensors that operations take.

        Args:
            with_columns: Whether the column form is among them: it is computed if it was not yet.
                The transposed product needs it, and computes it at each call where it is absent.
        """
        # (While torch.compile traces nothing can be computed: the operation will find it.)
        if torch.compiler.is_compiling() or not (with_columns or "_whole" in self.__dict__):
            return Pattern(self.row_ptr, self.columns, None, None, None, self.shape[1])
        return self._whole

    @cached_property
    def _whole(self) -> Pattern:
        return Pattern(self.row_ptr, self.columns, *self.column_form, self.shape[1])

    def to(self, device: torch.device | str) -> CSR:
        """The same layout on another device."""
        if torch.device(device) == self.device:
            return self
        other = CSR.__new__(CSR)
        other._adopt(self.row_ptr.to(device), self.columns.to(device), self.shape)
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        # Without what follows from it: which back ends can run is another question elsewhere.
        return _restored, (self.row_ptr, self.columns, self.shape)

    def __deepcopy__(self, memo: dict[int, object]) -> CSR:
        # Immutable: a copied module can share it.
        return self

    def __repr__(self) -> str:
        return f"CSR(shape={self.shape}, nnz={self.nnz})"


def _restored(row_ptr: Tensor, columns: Tensor, shape: tuple[int, int]) -> CSR:
    layout = CSR.__new__(CSR)
    layout._adopt(row_ptr, columns, shape)
    return layout


def column_form(row_ptr: Tensor, columns: Tensor, n_in: int) -> ColumnForm:
    """Connections in column order, rows ascending within a column; known as long as ``columns``."""
    owner = row_ptr.data_ptr(), n_in
    found: tuple[object, ColumnForm] | None = _known.get(columns)  # type: ignore[no-untyped-call]
    if found is None or found[0] != owner:
        _known[columns] = found = owner, new_column_form(row_ptr, columns, n_in)
    return found[1]


@torch.inference_mode(mode=False)  # it outlives the call
def new_column_form(row_ptr: Tensor, columns: Tensor, n_in: int) -> ColumnForm:
    """The same, computed and not remembered."""
    if columns.device.type == "cpu" and not _numba.missing():
        return ColumnForm(*_numba.column_form(row_ptr, columns, n_in))
    order = torch.argsort(columns, stable=True)
    col_ptr = torch.zeros(n_in + 1, dtype=torch.int64, device=columns.device)
    torch.cumsum(torch.bincount(columns, minlength=n_in), 0, out=col_ptr[1:])
    rows = torch.searchsorted(row_ptr, order, right=True, out_int32=True).sub_(1)
    return ColumnForm(col_ptr, rows, order.to(torch.int32))


def _check_dtype(tensor: Tensor, argument: str, dtype: torch.dtype) -> None:
    if not isinstance(tensor, Tensor) or tensor.dtype != dtype:
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{argument} must be a tensor of {dtype}, got {got}")


def _check_shape(shape: tuple[int, ...], nnz: int) -> tuple[int, int]:
    if len(shape) != 2:
        raise SparsityError(f"a layout has two dimensions, (n_out, n_in); got the shape {shape}")
    n_out, n_in = shape
    if max(n_out, n_in, nnz) > LARGEST:
        raise SparsityError(
            f"n_out, n_in and nnz must be at most {LARGEST} each: {n_out}, {n_in} and {nnz}"
        )
    return n_out, n_in
