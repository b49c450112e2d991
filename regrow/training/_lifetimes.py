"""What has ever been active, and since which rewiring the active units are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from regrow.topology import Topology, TopologyDelta


@final
class Lifetimes:
    """The past of one layer's units: one boolean a unit, and one int32 an active unit.

    ``born`` counts rewirings: 0 for a unit that is there from the start, n for one that the n-th
    rewiring of the updater grew.

    Args:
        topology: Where it starts.
    """

    def __init__(self, topology: Topology) -> None:
        self.ever_active = topology.active.clone()
        self.born = topology.units.new_zeros(topology.n_active, dtype=torch.int32)

    def update(self, old: Topology, delta: TopologyDelta, new: Topology, *, rewiring: int) -> None:
        """Follow the decision of rewiring number ``rewiring``, counted from 1."""
        self.ever_active.logical_or_(new.active)
        by_unit = torch.zeros(new.n_units, dtype=torch.int32, device=new.device)
        by_unit[old.units] = self.born
        by_unit[delta.grown] = rewiring
        self.born = by_unit[new.units]

    def restore(self, ever_active: Tensor, born: Tensor) -> None:
        """Take a saved past over; checked by who read it."""
        self.ever_active, self.born = ever_active, born

    def n_ever_active(self) -> int:
        """Units that were ever active."""
        return int(self.ever_active.count_nonzero())

    def ages(self, steps: int, rewired_at: Sequence[int]) -> Tensor:
        """Optimizer steps that each active unit has lived (n_active,) int64, by unit index.

        Args:
            steps: Optimizer steps performed.
            rewired_at: The step of each rewiring of the updater.
        """
        started = torch.tensor([0, *rewired_at], device=self.born.device)
        return steps - started[self.born.to(torch.int64)]
