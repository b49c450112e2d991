"""A topology as one tensor, for a layer's extra state."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor

from regrow.errors import SparsityError
from regrow.topology import Structure, Topology
from regrow.typing import Shape

FORMAT = 1


def pack_topology(topology: Topology) -> Tensor:
    """A topology as one int32 tensor: format, dimensions, shape, counts of the rows, columns.

    The structure is the layer's own, and not among them.
    """
    row_ptr, columns = topology.csr
    head = torch.tensor(
        [FORMAT, len(topology.shape), *topology.shape], dtype=torch.int32, device=columns.device
    )
    return torch.cat((head, row_ptr.diff().to(torch.int32), columns))


def unpack_topology(packed: object, *, shape: Shape, structure: Structure) -> Topology:
    """The topology that ``pack_topology`` packed.

    Args:
        packed: One-dimensional int32.
        shape: That of the layer's dense weight.
        structure: That of the layer.

    Raises:
        SparsityError: Not such a tensor, another format or shape, or no topology of the structure.
    """
    if not is_plain(packed) or packed.dtype != torch.int32 or packed.dim() != 1:
        raise SparsityError(
            f"a packed topology is a one-dimensional int32 tensor, got {kind_of(packed)}"
        )
    n_dims = len(shape)
    head = packed[: 2 + n_dims].tolist()
    if head != [FORMAT, n_dims, *shape]:
        raise SparsityError(
            f"the packed topology begins with {head}; a layer of shape {shape} needs "
            f"{[FORMAT, n_dims, *shape]}"
        )
    n_rows, body = shape[0], packed[2 + n_dims :]
    counts, columns = body[:n_rows], body[n_rows:]
    if counts.numel() != n_rows:
        raise SparsityError(
            f"the packed topology ends behind {counts.numel()} of the {n_rows} counts of its rows"
        )
    row_ptr = torch.zeros(n_rows + 1, dtype=torch.int64, device=packed.device)
    torch.cumsum(counts, 0, out=row_ptr[1:])
    return Topology.from_csr(row_ptr, columns.clone(), shape, structure=structure)


def is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether a value is a tensor that holds each of its elements."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_meta
        and not value.is_nested
        # A file can name more elements than it holds.
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def kind_of(value: object) -> str:
    """What a value is, for messages; a file's values are not printed."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype} of shape {tuple(value.shape)}, {value.layout} on {value.device}"
