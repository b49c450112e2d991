"""First topologies."""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.errors import SparsityError
from regrow.topology._best import Best
from regrow.topology._groups import room_of, unit_ranges
from regrow.topology._rows import Rows, elements_in_order
from regrow.topology._sample import sample_places
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
    compact: bool = False,
) -> Topology:
    """A topology drawn uniformly among all with these counts.

    Args:
        shape: Shape of the weight.
        counts: Active units of each group (n_groups,) int64, or an int over all groups, which
            they share evenly, or in proportion to their room where the structure lets them differ.
        generator: CPU generator; the result is on the CPU.
        structure: What a unit is; by default a single element.
        allowed: (n_units,) bool, the units to choose from; None: all.
        compact: Whether connections are held as compressed rows. The
            topology is the same in either form.

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
    if n_groups == 1 and allowed is None:
        units = sample_places(n_units, int(counts), generator=generator)
    else:
        units = _drawn_by_group(shape, counts, generator, structure, allowed)
    if not compact:
        return Topology(units, shape, structure=structure, allowed=allowed)
    if allowed is not None:
        raise SparsityError("a compact topology has no allowed= units: leave compact out")
    rows = Rows.of(elements_in_order(structure, shape, units), shape)
    return Topology.from_csr(*rows, shape, structure=structure)


def _drawn_by_group(
    shape: Shape,
    counts: Tensor | int,
    generator: torch.Generator,
    structure: Structure,
    allowed: Tensor | None,
) -> Tensor:
    """The units with the highest draws of each group, a bounded number of draws at a time."""
    n_groups = structure.n_groups(shape)
    if isinstance(counts, int) and n_groups > 1:
        counts = spread_over_groups(structure, counts, room_of(structure, shape, allowed))
    best = Best(counts if n_groups > 1 else int(counts))
    for units in unit_ranges(structure.n_units(shape)):
        # Doubles: among millions of float32 draws ties are common, and ties favour low positions.
        scores = torch.rand(units.numel(), generator=generator, dtype=torch.float64)
        if allowed is not None:
            flags = allowed[units]
            units, scores = units[flags], scores[flags]
        best.offer(units, scores, structure.group_of(units, shape) if n_groups > 1 else None)
    return best.units()
