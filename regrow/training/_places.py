"""Where growth may look: units that are free, listed or asked about, never all at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from regrow.criteria import is_uniform
from regrow.topology import (
    Best,
    Topology,
    Unstructured,
    are_among,
    sample_places,
    select_top,
    unit_ranges,
)
from regrow.typing import Criterion, LayerView


@final
class Places:
    """Units that may be grown: allowed and not active, and those that are just being dropped.

    Where the topology is compact they are found a bounded number at a time; otherwise one flag a
    unit is held.

    Args:
        topology: Before the rewiring.
        reopened: Units (n,) int64, ascending, active now, which may come back.
    """

    def __init__(self, topology: Topology, reopened: Tensor) -> None:
        self._topology = topology
        self._reopened = reopened
        self._flags: Tensor | None = None
        self._active: Tensor | None = None
        if not topology.is_compact:
            self._flags = topology.free
            self._flags[reopened] = True
        self.n = topology.n_allowed - topology.n_active + reopened.numel()

    @property
    def flags(self) -> Tensor | None:
        """One flag a unit (n_units,) bool; None where the topology is compact."""
        return self._flags

    def is_open(self, units: Tensor) -> Tensor:
        """Whether each of some units (n,) may be grown -> (n,) bool."""
        if self._flags is not None:
            return self._flags[units]
        if self._active is None:
            self._active = self._topology.units  # (once for all the rounds of draws)
        return ~are_among(self._active, units) | are_among(self._reopened, units)

    def blocks(self) -> Iterator[Tensor]:
        """All such units, ascending, in one block or, of a compact topology, in several."""
        if self._flags is not None:
            yield self._flags.nonzero().squeeze(1)
            return
        topology = self._topology
        units = topology.units
        for some in unit_ranges(topology.n_units, topology.device):
            low, high = int(some[0]), int(some[-1]) + 1
            closed = torch.ones_like(some, dtype=torch.bool)
            # (Bounds as one tensor: the units ascend.)
            first, last = torch.searchsorted(units, units.new_tensor([low, high])).tolist()
            closed[units[first:last] - low] = False
            bounds = self._reopened.new_tensor([low, high])
            first, last = torch.searchsorted(self._reopened, bounds).tolist()
            closed[self._reopened[first:last] - low] = True
            yield some[closed]


def unit_scores(layer: LayerView, criterion: Criterion, units: Tensor) -> Tensor:
    """Scores of units: the sum over their elements, or the criterion's own where it scores units.

    What scores units whatever their values, such as random draws, is asked for one element each.
    """
    topology = layer.topology
    elements = topology.structure.elements_of(units, topology.shape)
    if elements.shape[1] == 1 or getattr(criterion, "by_unit", False):
        return criterion(layer, elements[:, 0])
    return criterion(layer, elements.reshape(-1)).view(elements.shape).sum(dim=1)


def choose_places(
    layer: LayerView, criterion: Criterion, places: Places, n_grow: int | Tensor
) -> Tensor:
    """The units that enter, ascending: the highest scores among the places.

    Args:
        layer: What the criterion looks at.
        criterion: Of growth.
        places: Where it may look.
        n_grow: Over the layer, or of each group (n_groups,) int64.
    """
    structure, shape = layer.topology.structure, layer.topology.shape
    if is_uniform(criterion) and not isinstance(n_grow, Tensor):
        drawn = sample_places(
            layer.topology.n_units,
            n_grow,
            generator=layer.generator,
            is_free=lambda units: places.is_open(units.to(layer.topology.device)).cpu(),
            n_free=places.n,
        )
        return drawn.to(layer.topology.device)
    whole = _on_whole(layer, criterion, places.flags, n_grow)
    if whole is not None:
        return whole
    best = Best(n_grow, device=layer.topology.device)
    for units in places.blocks():
        groups = structure.group_of(units, shape) if isinstance(n_grow, Tensor) else None
        best.offer(units, unit_scores(layer, criterion, units), groups)
    return best.units()


def _on_whole(
    layer: LayerView, criterion: Criterion, flags: Tensor | None, n_grow: int | Tensor
) -> Tensor | None:
    """The same from the scores of the whole layer, where that spares a gather; else None."""
    asks_for_it = layer.holds_dense and getattr(criterion, "on_whole", False)
    if flags is None or not asks_for_it or not isinstance(layer.topology.structure, Unstructured):
        return None
    scores = criterion(layer, slice(None))  # type: ignore[arg-type]
    grown = select_top(scores.masked_fill(~flags, -torch.inf), None, n_grow)
    # (NaN ranks as low as what is not open.)
    return grown if bool(flags[grown].all()) else None
