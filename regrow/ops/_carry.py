"""Values follow their connections when a topology changes."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.errors import SparsityError
from regrow.ops import _numba
from regrow.ops._layout import CSR

AT_ONCE = 2**20
"""Connections that the fallback looks up at a time."""


def carry_values(old: CSR, values: Tensor, new: CSR, *, fill: float = 0.0) -> Tensor:
    """Move values, or optimizer state, from one layout to another.

    Nothing of the dense size is allocated: rows are merged one by one.

    Args:
        old: The layout of ``values``.
        values: (nnz,) of the old layout, any dtype; unchanged.
        new: A layout of the same shape.
        fill: Value of connections that the old layout does not have.

    Returns:
        (nnz,) of the new layout, without gradient history.

    Raises:
        SparsityError: Other shapes, or another number of values.

    Example:
        >>> from regrow.topology import Topology
        >>> old = CSR.of(Topology(torch.tensor([0, 3]), (2, 2)))
        >>> new = CSR.of(Topology(torch.tensor([1, 3]), (2, 2)))
        >>> carry_values(old, torch.tensor([5.0, 6.0]), new).tolist()
        [0.0, 6.0]
    """
    if old.shape != new.shape:
        raise SparsityError(f"the layouts must have one shape, got {old.shape} and {new.shape}")
    if values.shape != (old.nnz,):
        raise SparsityError(f"values must have shape ({old.nnz},), got {tuple(values.shape)}")
    values = values.detach().contiguous()
    carried = values.new_full((new.nnz,), fill)
    if values.device.type == "cpu" and not _numba.missing():
        _numba.carry(old.row_ptr, old.columns, values, new.row_ptr, new.columns, carried)
        return carried
    positions = old.positions
    if not old.nnz:
        return carried
    wanted = new.positions
    for some in range(0, new.nnz, AT_ONCE):
        part = wanted[some : some + AT_ONCE]
        at = torch.searchsorted(positions, part).clamp_(max=old.nnz - 1)
        same = positions[at] == part
        carried[some : some + AT_ONCE][same] = values[at[same]]
    return carried
