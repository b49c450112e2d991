"""TopologyDelta: a decision; ``apply``: the topology after it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from regrow.errors import SparsityError
from regrow.topology._arguments import check_units
from regrow.topology._rows import Rows, are_among, elements_in_order
from regrow.topology._topology import Topology


@dataclass(frozen=True, eq=False)
class TopologyDelta:
    """A decision, before anything is changed.

    Args:
        dropped: Unit indices (n,) int64, ascending, all active before.
        grown: Unit indices (m,) int64, ascending, none active before unless it is also in
            ``dropped``. A unit in both comes back at its initial value with fresh optimizer
            state; one that keeps its value is in neither.
    """

    dropped: Tensor
    grown: Tensor

    @property
    def is_empty(self) -> bool:
        """Whether the decision changes nothing."""
        return self.dropped.numel() == 0 and self.grown.numel() == 0


def apply(topology: Topology, delta: TopologyDelta) -> Topology:
    """The topology after a decision.

    Args:
        topology: The topology the decision was made on; unchanged.
        delta: Units to drop and to grow.

    Returns:
        A new topology.

    Raises:
        TypeError: The decision holds something else than tensors.
        SparsityError: An index is out of range, repeated or out of order, a dropped unit is
            absent, a grown one is present and not dropped, or not allowed, or a group ends with a
            count that the structure rules out.

    Example:
        >>> import torch
        >>> before = Topology(torch.tensor([0, 3]), (2, 2))
        >>> apply(before, TopologyDelta(torch.tensor([0]), torch.tensor([1]))).units.tolist()
        [1, 3]
    """
    for argument, units in (("dropped", delta.dropped), ("grown", delta.grown)):
        check_units(units, topology.n_units, argument)
    dropped, grown = delta.dropped, delta.grown
    there = topology.is_active(dropped)
    if not bool(there.all()):
        raise SparsityError(
            f"cannot drop units that are not active: {dropped[~there][:5].tolist()} ..."
        )
    stays = topology.is_active(grown) & ~are_among(dropped, grown)
    if bool(stays.any()):
        raise SparsityError(
            f"cannot grow units that are active and not dropped: {grown[stays][:5].tolist()} ..."
        )
    n_active = topology.n_active - dropped.numel() + grown.numel()
    shape, structure = topology.shape, topology.structure
    if topology.is_compact:
        gone, more = (elements_in_order(structure, shape, units) for units in (dropped, grown))
        rows = Rows(*topology.csr).exchanged(gone, more, shape)
        new = Topology._of(shape, structure, rows=rows, n_active=n_active)
    else:
        active = topology.active.clone()
        active[dropped] = False
        active[grown] = True
        allowed = topology.allowed
        new = Topology._of(shape, structure, active=active, allowed=allowed, n_active=n_active)
    new._check()
    return new
