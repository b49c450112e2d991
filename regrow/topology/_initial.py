"""First topologies."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.topology._select import select_top
from regrow.topology._structure import Structure, Unstructured
from regrow.topology._topology import Topology
from regrow.typing import Shape


def random_topology(
    shape: Shape,
    counts: Tensor | int,
    *,
    generator: torch.Generator,
    structure: Structure | None = None,
) -> Topology:
    """A topology drawn uniformly among all with these counts.

    Args:
        shape: Shape of the weight.
        counts: Active units: an int where there is one group, else (n_groups,) int64.
        generator: CPU generator; the result is on the CPU.
        structure: What a unit is; by default a single element.

    Returns:
        A topology with exactly those counts.

    Raises:
        SparsityError: More units asked for than a group has.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> random_topology((4, 4), 3, generator=generator).nnz
        3
    """
    structure = Unstructured() if structure is None else structure
    structure.check(shape)
    n_units = structure.n_units(shape)
    # Doubles: among millions of float32 draws ties are common, and ties favour low positions.
    scores = torch.rand(n_units, generator=generator, dtype=torch.float64)
    groups = None
    if structure.n_groups(shape) > 1:
        groups = structure.group_of(torch.arange(n_units), shape)
    chosen = select_top(scores, groups, counts)
    return Topology(chosen, shape, structure=structure)
