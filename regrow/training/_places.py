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
    positions_between,
    sample_places,
    select_top,
    unit_bounds,
)
from regrow.typing import Criterion, LayerView

SHARE, SHARE_OF_RUNS = 4, 2
"""One element to so many connections is scored at a time: some thirty bytes each as lists, a dozen
as runs."""
SMALLEST = 2**12
"""Elements that are, at least."""


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
        elif not isinstance(topology.structure, Unstructured):
            # (Single elements are looked up among the rows: a list of them would be too long.)
            self._active = topology.units
        self.n = topology.n_allowed - topology.n_active + reopened.numel()

    @property
    def flags(self) -> Tensor | None:
        """One flag a unit (n_units,) bool; None where the topology is compact."""
        return self._flags

    def is_open(self, units: Tensor) -> Tensor:
        """Whether each of some units (n,) may be grown -> (n,) bool."""
        if self._flags is not None:
            return self._flags[units]
        known = self._active
        closed = self._topology.is_active(units) if known is None else are_among(known, units)
        return closed.logical_not_().logical_or_(are_among(self._reopened, units))

    def blocks(self) -> Iterator[Tensor]:
        """All such units, ascending, in one block or, of a compact topology, in several."""
        if self._flags is not None:
            yield self._flags.nonzero().squeeze(1)
            return
        for low, _, opened in self.runs(SHARE):
            yield opened.nonzero().squeeze(1).add_(low)

    def runs(self, share: int) -> Iterator[tuple[int, int, Tensor]]:
        """All units of a compact topology: (low, high, which of them may be grown), ascending.

        Args:
            share: One element to so many connections is in a run.
        """
        topology = self._topology
        at_once = _at_once(topology, share)
        row = topology.n_elements // topology.shape[0] if self._active is None else 1
        for low, high in unit_bounds(topology.n_units, at_once=at_once, row=row):
            opened = torch.ones(high - low, dtype=torch.bool, device=topology.device)
            if self._active is None:
                _, active = positions_between(topology, low, high)
            else:
                active = _between(self._active, low, high)
            opened[active - low] = False
            opened[_between(self._reopened, low, high) - low] = True
            yield low, high, opened


def _between(units: Tensor, low: int, high: int) -> Tensor:
    """Those of some ascending units that lie in [low, high)."""
    first, last = torch.searchsorted(units, units.new_tensor([low, high])).tolist()
    return units[first:last]


def _at_once(topology: Topology, share: int) -> int:
    """How many units are looked at together: one row of elements, or what the share allows."""
    row = topology.n_elements // topology.shape[0]
    return max(max(topology.nnz // share, row, SMALLEST) // topology.unit_size, 1)


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
    best = Best(n_grow, device=layer.topology.device)
    if _takes_runs(layer, criterion):
        if places.flags is None:
            return _of_runs(layer, criterion, places, best)
        whole = _on_whole(layer, criterion, places.flags, n_grow)
        if whole is not None:
            return whole
    for units in places.blocks():
        groups = structure.group_of(units, shape) if isinstance(n_grow, Tensor) else None
        best.offer(units, unit_scores(layer, criterion, units), groups)
    return best.units()


def _takes_runs(layer: LayerView, criterion: Criterion) -> bool:
    """Whether a run of places can be scored without a list of them."""
    topology = layer.topology
    return (
        isinstance(topology.structure, Unstructured)
        and getattr(criterion, "on_whole", False)
        and (layer.holds_dense or topology.is_compact)
    )


def _of_runs(layer: LayerView, criterion: Criterion, places: Places, best: Best) -> Tensor:
    """The same from the scores of all elements, run by run; only the best ever get a number."""
    few = _at_once(layer.topology, SHARE)
    for low, high, opened in places.runs(SHARE_OF_RUNS):
        scores = criterion(layer, slice(low, high))  # type: ignore[arg-type]
        # (Of the first ones all may enter, and each then takes twelve bytes.)
        for first in range(0, high - low, few):
            part = slice(first, first + few)
            entering = best.may_enter(scores[part])
            if entering is not None:
                opened[part].logical_and_(entering)
            units = opened[part].nonzero().squeeze(1).add_(first)
            chosen = scores[units]
            best.add(units.add_(low), chosen, None)
    return best.units()


def _on_whole(
    layer: LayerView, criterion: Criterion, flags: Tensor, n_grow: int | Tensor
) -> Tensor | None:
    """The same from the scores of the whole layer, where all that are chosen are open."""
    scores = criterion(layer, slice(None))  # type: ignore[arg-type]
    grown = select_top(scores.masked_fill(~flags, -torch.inf), None, n_grow)
    # (NaN ranks as low as what is not open.)
    return grown if bool(flags[grown].all()) else None
