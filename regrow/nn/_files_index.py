"""A topology in few bytes, for files: bits, or the gaps between connections.

Connections are numbered by their flat, row-major position in the weight, ascending. Of three
codings the one that takes the fewest bytes is used:

- ``bits``: a bit for each element of the dense weight, 1 / (8 (1 - s)) bytes a connection at
  sparsity s: 0.25 at 50 %, 0.63 at 80 %, and the smallest up to 87.5 %;
- ``gaps8``: a byte a connection, the number of elements skipped since the last one; 255 says that
  255 elements are skipped and the number goes on. 1.00 bytes at 90 and 95 %, 1.08 at 99 %, and the
  smallest up to about 99.7 %;
- ``gaps16``: likewise in two bytes, for all that is sparser.

An int32 column, which is what a layer computes with, takes four.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from regrow.errors import SparsityError
from regrow.topology import Structure, Topology
from regrow.typing import Shape

_DTYPES: dict[str, np.dtype[np.unsignedinteger]] = {
    "bits": np.dtype(np.uint8),
    "gaps8": np.dtype(np.uint8),
    "gaps16": np.dtype(np.uint16),
}
CODINGS = tuple(_DTYPES)
_BLOCK = 8 * 2**20
"""Flags that are held as booleans at a time."""


def encode(topology: Topology) -> tuple[str, Tensor]:
    """A topology as the name of a coding and what it gives.

    Args:
        topology: Of any structure; besides the result, 24 bytes a connection are held for a while.

    Returns:
        One of ``CODINGS``, and a one-dimensional tensor on the CPU, uint8 or, for gaps16, uint16.

    Example:
        >>> encode(Topology(torch.tensor([2, 3, 700]), (1, 999)))
        ('gaps8', tensor([  2,   0, 255, 255, 186], dtype=torch.uint8))
    """
    positions = topology.indices.cpu().numpy()
    skipped = np.diff(positions, prepend=-1) - 1
    n_bytes = {"bits": -(-topology.n_elements // 8)}
    for coding in ("gaps8", "gaps16"):
        most = np.iinfo(_DTYPES[coding]).max
        n_codes = positions.size + int((skipped // most).sum())
        n_bytes[coding] = n_codes * _DTYPES[coding].itemsize
    coding = min(n_bytes, key=lambda name: n_bytes[name])
    return coding, coded(coding, positions, topology.n_elements)


def coded(coding: str, positions: np.ndarray, n_elements: int) -> Tensor:
    """Ascending positions in one coding."""
    if coding == "bits":
        return torch.from_numpy(_to_bits(positions, n_elements))
    return torch.from_numpy(_to_gaps(np.diff(positions, prepend=-1) - 1, _DTYPES[coding]))


def decode(coding: str, codes: Tensor, *, shape: Shape, nnz: int, structure: Structure) -> Topology:
    """The topology that ``encode`` coded; compact.

    Args:
        coding: One of ``CODINGS``.
        codes: What ``encode`` gave.
        shape: Of the weight; nothing of this size is allocated.
        nnz: Number of connections.
        structure: What a unit is.

    Raises:
        SparsityError: Not such codes, another number of connections, positions outside the weight,
            or no topology of the structure.
    """
    n_elements = math.prod(shape)
    dtype = torch.from_numpy(np.empty(0, _DTYPES[coding])).dtype
    if codes.dtype != dtype or codes.dim() != 1:
        raise SparsityError(
            f"the topology must be one-dimensional {dtype} in coding {coding!r}, got {codes.dtype} "
            f"of shape {tuple(codes.shape)}"
        )
    read = _from_bits if coding == "bits" else _from_gaps
    positions = torch.from_numpy(read(codes.numpy(), n_elements))
    if positions.numel() != nnz:
        raise SparsityError(
            f"the topology has {positions.numel()} connections where {nnz} values belong to it"
        )
    n_columns = math.prod(shape[1:])
    row_ptr = torch.searchsorted(positions, torch.arange(shape[0] + 1) * n_columns)
    columns = positions.remainder_(n_columns).to(torch.int32)
    return Topology.from_csr(row_ptr, columns, shape, structure=structure)


def _to_bits(positions: np.ndarray, n_elements: int) -> np.ndarray:
    parts = [np.empty(0, np.uint8)]
    for start in range(0, n_elements, _BLOCK):
        flags = np.zeros(min(_BLOCK, n_elements - start), np.bool_)
        first, last = np.searchsorted(positions, (start, start + flags.size))
        flags[positions[first:last] - start] = True
        parts.append(np.packbits(flags))
    return np.concatenate(parts)


def _from_bits(codes: np.ndarray, n_elements: int) -> np.ndarray:
    if codes.size != -(-n_elements // 8):
        raise SparsityError(
            f"the topology of {n_elements} elements takes {-(-n_elements // 8)} bytes of bits, got "
            f"{codes.size}"
        )
    parts = [np.empty(0, np.int64)]
    for start in range(0, n_elements, _BLOCK):
        bits = np.unpackbits(codes[start // 8 : (start + _BLOCK) // 8])
        parts.append(np.flatnonzero(bits) + start)
    return _inside(np.concatenate(parts), n_elements)


def _to_gaps(skipped: np.ndarray, dtype: np.dtype[np.unsignedinteger]) -> np.ndarray:
    most = int(np.iinfo(dtype).max)
    full, rest = np.divmod(skipped, most)
    ends = np.cumsum(full + 1)
    codes = np.full(int(ends[-1]) if ends.size else 0, most, dtype)
    codes[ends - 1] = rest
    return codes


def _from_gaps(codes: np.ndarray, n_elements: int) -> np.ndarray:
    is_end = codes != np.iinfo(codes.dtype).max
    if codes.size and not is_end[-1]:
        raise SparsityError("the topology ends within the gap before a connection")
    positions = np.cumsum(codes, dtype=np.int64)[is_end]
    positions += np.arange(positions.size)
    return _inside(positions, n_elements)


def _inside(positions: np.ndarray, n_elements: int) -> np.ndarray:
    """Ascending positions, of which the last must be one of the weight."""
    if positions.size and positions[-1] >= n_elements:
        raise SparsityError(
            f"the topology has a connection at {positions[-1]} in a weight of {n_elements} elements"
        )
    return positions
