"""First topologies."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.topology._select import select_top
from regrow.topology._structure import Structure, spread_over_groups
from regrow.topology._topology import Topology
from regrow.topology.structures import Unstructured
from regrow.typing import Shape


def random_topology(
    shape: Shape,
    counts: Tensor | int,
    *,
    generator: torch.Generator,
    structure: Structure | None = None,
    allowed: Tensor | None = None,
) -> Topology:
    """A topology drawn uniformly among all with these counts.

    Args:
        shape: Shape of the weight.
        counts: Active units of each group (n_groups,) int64, or an int over all groups, which
            they share evenly, or in proportion to their room where the structure lets them differ.
        generator: CPU generator; the result is on the CPU.
        structure: What a unit is; by default a single element.
        allowed: (n_units,) bool, the units to choose from; None: all.

    Returns:
        A topology with exactly those counts.

    Raises:
        SparsityError: More units asked for than a group can hold, or a count that the structure
            rules out.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> random_topology((4, 4), 3, generator=generator).nnz
        3
    """
    structure = Unstructured() if structure is None else structure
    structure.check(shape)
    n_units, n_groups = structure.n_units(shape), structure.n_groups(shape)
    # Doubles: among millions of float32 draws ties are common, and ties favour low positions.
    scores = torch.rand(n_units, generator=generator, dtype=torch.float64)
    units = torch.arange(n_units) if allowed is None else allowed.nonzero().squeeze(1)
    groups = structure.group_of(units, shape) if n_groups > 1 else None
    if isinstance(counts, int) and groups is not None:
        room = torch.bincount(groups, minlength=n_groups)
        counts = spread_over_groups(structure, counts, room)
    chosen = units[select_top(scores[units], groups, counts)]
    return Topology(chosen, shape, structure=structure, allowed=allowed)
