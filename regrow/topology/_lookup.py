"""Questions to a topology that name some of its connections: none of them lists them all.

A list of all positions takes eight bytes a connection, twice what a compact topology holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regrow.topology._rows import Rows, are_among, matrix_shape
from regrow.topology.structures import Unstructured

if TYPE_CHECKING:
    from regrow.topology._topology import Topology


def _rows_of_units(topology: Topology) -> Rows | None:
    """The compressed rows, where units are elements, numbered as they are."""
    plain = topology.is_compact and isinstance(topology.structure, Unstructured)
    return Rows(*topology.csr) if plain else None


def are_active(topology: Topology, units: Tensor) -> Tensor:
    """Whether each of some units (n,) of a compact topology is active -> (n,) bool."""
    rows = _rows_of_units(topology)
    if rows is None:
        return are_among(topology.units, units.to(torch.int64))
    return rows.locate(units, topology.shape)[1]


def units_at(topology: Topology, places: Tensor) -> Tensor:
    """Active units by their place among the active ones.

    Args:
        topology: In either form.
        places: (n,) int64, in [0, n_active).

    Returns:
        (n,) int64.

    Example:
        >>> from regrow.topology import Topology
        >>> units_at(Topology(torch.tensor([0, 3]), (2, 2)).compact(), torch.tensor([1])).tolist()
        [3]
    """
    rows = _rows_of_units(topology)
    return topology.units[places] if rows is None else rows.at(places, topology.shape)


def positions_between(topology: Topology, low: int, high: int) -> tuple[int, Tensor]:
    """The connections at flat positions ``low`` to ``high``.

    Args:
        topology: In either form.
        low: The first position that may be among them.
        high: The first behind them.

    Returns:
        Where the first of them lies among all connections, and their positions (n,) int64,
        ascending.

    Example:
        >>> from regrow.topology import Topology
        >>> positions_between(Topology(torch.tensor([0, 2, 3]), (2, 2)), 1, 4)
        (1, tensor([2, 3]))
    """
    rows, n_columns = Rows(*topology.csr), matrix_shape(topology.shape)[1]
    # Of whole rows, as far as they meet the range.
    met = torch.tensor([low // n_columns, -(-high // n_columns)])
    start, end = rows.row_ptr[met.to(topology.device)].tolist()
    positions = rows.between(start, end, topology.shape)
    bounds = positions.new_tensor([low, high])
    first, last = torch.searchsorted(positions, bounds).tolist()
    return start + first, positions[first:last]


def positions_at(topology: Topology, places: Tensor) -> Tensor:
    """Flat positions of some connections by their place among all of them.

    Args:
        topology: In either form.
        places: (n,) int64, in [0, nnz).

    Returns:
        (n,) int64.
    """
    if topology.is_compact:
        return Rows(*topology.csr).at(places, topology.shape)
    return topology.indices[places]


def locate(topology: Topology, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Where among its connections some flat positions lie, and which of them do.

    Args:
        topology: In either form.
        positions: (n,) int64, in any order; ascending ones are the fastest.

    Returns:
        (n,) int64, any number in [0, nnz) for what is no connection, and (n,) bool.

    Example:
        >>> from regrow.topology import Topology
        >>> topology = Topology(torch.tensor([0, 3]), (2, 2)).compact()
        >>> [one.tolist() for one in locate(topology, torch.tensor([3, 1]))]
        [[1, 1], [True, False]]
    """
    return Rows(*topology.csr).locate(positions, topology.shape)


def are_all(topology: Topology, positions: Tensor) -> bool:
    """Whether these are the flat positions of all its connections, in order.

    Args:
        topology: In either form.
        positions: (n,) int64.
    """
    return Rows(*topology.csr).are_at(positions, topology.shape)
