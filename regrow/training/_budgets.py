"""Budgets: how many units each layer drops and grows in one rewiring, each on its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple, Protocol, final

import torch
from torch import Tensor

from regrow._checks import check_choice
from regrow.allocation import Allocation, allocate_counts
from regrow.errors import SparsityError
from regrow.topology import spread_over_groups, units_at
from regrow.typing import LayerView


class Quota(NamedTuple):
    """Units of one layer in one rewiring.

    ``n_prune`` go towards a target and are not replaced; ``n_drop`` more make room for growth;
    ``n_grow`` enter. Whole numbers are taken over the whole layer, and where it has several groups
    each grows what it lost to ``n_drop``; tensors (n_groups,) int64 are taken group by group.
    """

    n_prune: int | Tensor
    n_drop: int | Tensor
    n_grow: int | Tensor


@final
@dataclass(frozen=True, eq=False)
class Standing:
    """A layer as a budget sees it.

    Args:
        layer: The layer.
        scores: (n_active,) scores of its active units by the drop criterion; low leaves first.
        can_grow: Whether growth can be scored; without a gradient it cannot by gradient.
        held_units: (n_active,) int64 its active units, where they are at hand; a truly sparse layer
            makes them at each call, since they are eight bytes a connection.
    """

    layer: LayerView
    scores: Tensor
    can_grow: bool
    held_units: Tensor | None = None

    @property
    def units(self) -> Tensor:
        """Its active units (n_active,) int64, ascending."""
        return self.layer.topology.units if self.held_units is None else self.held_units

    def units_where(self, flags: Tensor) -> Tensor:
        """Those of its active units that are flagged (n_active,) bool, ascending int64."""
        if self.held_units is not None:
            return self.held_units[flags]
        return units_at(self.layer.topology, flags.nonzero().squeeze(1))

    @property
    def n_active(self) -> int:
        """Active units."""
        return self.layer.topology.n_active

    @property
    def n_units(self) -> int:
        """All units that may be active."""
        return self.layer.topology.n_allowed

    @cached_property
    def groups(self) -> Tensor | None:
        """(n_active,) the group of each active unit; None where there is one group."""
        topology = self.layer.topology
        if topology.structure.n_groups(topology.shape) == 1:
            return None
        return topology.structure.group_of(self.units, topology.shape)


class Budget(Protocol):
    """Says what each layer drops and grows.

    One that has an attribute ``by_layer`` which is true decides on each layer by itself, as long as
    there is no target: it is then called with one layer at a time.
    """

    def __call__(
        self, standings: Sequence[Standing], fraction: float, target: float | None
    ) -> list[Quota]:
        """Quotas of the layers, in order.

        Args:
            standings: The layers.
            fraction: Drop fraction in [0, 1], of the units that stay after pruning.
            target: Sparsity over all layers to reach, or None where counts stay.
        """

    def check(self, layers: Sequence[LayerView], target: float | None) -> None:
        """Raise ``SparsityError`` if it cannot work; called before anything changes.

        Args:
            layers: The layers.
            target: A sparsity over all layers to move to, or None where counts stay; each that
                the rule's schedule comes to is asked about.
        """


Rounding = Literal["down", "up"]
"""Of the units to drop: RigL's code rounds down, those of ITOP, GraNet, DSN and E2ENet up."""
ROUNDINGS = ("down", "up")


def share_of(fraction: float, count: int, rounding: Rounding) -> int:
    """Part of a count, rounded."""
    exact = fraction * count
    return math.ceil(exact - 1e-9) if rounding == "up" else math.floor(exact + 1e-9)


def shares_of(fraction: float, counts: Tensor, rounding: Rounding) -> Tensor:
    """Part of each count (n_groups,) int64, rounded."""
    exact = fraction * counts.double()
    rounded = (exact - 1e-9).ceil() if rounding == "up" else (exact + 1e-9).floor()
    return rounded.to(torch.int64)


def check_not_fixed(layers: Sequence[LayerView]) -> None:
    """Raise ``SparsityError`` if a layer's structure fixes its sparsity: no target can move it."""
    for layer in layers:
        structure = layer.topology.structure
        if structure.fixed_sparsity is not None:
            raise SparsityError(
                f"{layer.name!r} cannot move to a target: {structure} fixes its sparsity at "
                f"{structure.fixed_sparsity:g}; use a method that keeps counts, such as rigl"
            )


@final
@dataclass(frozen=True)
class _PerLayer:
    allocation: Allocation | None = None
    rounding: Rounding = "down"
    by_layer: ClassVar[bool] = True

    def __call__(
        self, standings: Sequence[Standing], fraction: float, target: float | None
    ) -> list[Quota]:
        if target is None:
            drops = [share_of(fraction, s.n_active, self.rounding) * s.can_grow for s in standings]
            return [Quota(0, n_drop, n_drop) for n_drop in drops]
        counts = self._counts([standing.layer for standing in standings], target)
        return [
            self._towards(standing, count, fraction)
            for standing, count in zip(standings, counts, strict=True)
        ]

    def _towards(self, standing: Standing, count: int, fraction: float) -> Quota:
        topology = standing.layer.topology
        if standing.groups is not None:
            before, room = topology.counts(), topology.room
            after = spread_over_groups(topology.structure, count, room)
            n_drop = shares_of(fraction, torch.minimum(after, before), self.rounding)
            n_drop *= standing.can_grow
            n_prune = (before - after).clamp(min=0)
            n_grow = (after - (before - n_prune - n_drop)) * standing.can_grow
            return Quota(n_prune, n_drop, n_grow)
        n_prune_, n_active = max(standing.n_active - count, 0), standing.n_active
        if not standing.can_grow:
            return Quota(n_prune_, 0, 0)
        n_drop_ = share_of(fraction, min(count, n_active), self.rounding)
        return Quota(n_prune_, n_drop_, count - (n_active - n_prune_ - n_drop_))

    def check(self, layers: Sequence[LayerView], target: float | None) -> None:
        if target is None:
            return
        check_not_fixed(layers)
        for layer, count in zip(layers, self._counts(layers, target), strict=True):
            topology = layer.topology
            if count > topology.n_allowed:
                raise SparsityError(
                    f"{self.allocation} gives {layer.name!r} {count} units at sparsity {target:g}, "
                    f"and {topology.n_allowed} are allowed"
                )
            if topology.structure.n_groups(topology.shape) == 1:
                continue
            try:
                spread_over_groups(topology.structure, count, topology.room)
            except SparsityError as error:
                raise SparsityError(
                    f"{self.allocation} gives {layer.name!r} {count} units at sparsity {target:g}: "
                    f"{error}"
                ) from error

    def _counts(self, layers: Sequence[LayerView], target: float) -> list[int]:
        if self.allocation is None:
            raise SparsityError("per_layer() keeps counts; for a target, per_layer(allocation=...)")
        shapes = {layer.name: layer.topology.shape for layer in layers}
        structures = {layer.name: layer.topology.structure for layer in layers}
        counts = allocate_counts(shapes, target, self.allocation, structure=structures)
        return [counts[layer.name] for layer in layers]


def per_layer(*, allocation: Allocation | None = None, rounding: Rounding = "down") -> Budget:
    """Every layer grows what it dropped (SET, RigL).

    Where a layer has several groups, what leaves is chosen over the whole layer, and each group
    grows what it lost: with two units a group, a count of drops for each would round to none.

    Args:
        allocation: With a target (MEST), the rule that says each layer's count at that sparsity.
        rounding: Of the units to drop: ``"down"`` (RigL's code) or ``"up"`` (ITOP's and others).

    Raises:
        ValueError: Unknown rounding.
    """
    check_choice(rounding, "rounding", ROUNDINGS)
    return _PerLayer(allocation, rounding)


@final
@dataclass(frozen=True)
class _PerGroup:
    rounding: Rounding = "down"
    by_layer: ClassVar[bool] = True

    def __call__(
        self, standings: Sequence[Standing], fraction: float, target: float | None
    ) -> list[Quota]:
        self.check([standing.layer for standing in standings], target)
        quotas = []
        for standing in standings:
            counts = standing.layer.topology.counts()
            n_drop = shares_of(fraction, counts, self.rounding) * standing.can_grow
            quotas.append(Quota(0 * n_drop, n_drop, n_drop))
        return quotas

    def check(self, layers: Sequence[LayerView], target: float | None) -> None:
        del layers
        if target is not None:
            raise SparsityError("per_group() keeps the count of every group; it takes no target")


def per_group(*, rounding: Rounding = "down") -> Budget:
    """Every group of every layer drops its own share, and grows as many (DSN).

    For groups of many units: of two, a share rounds to none or to all.

    Args:
        rounding: Of the units to drop: ``"down"`` or ``"up"`` (DSN's code).

    Raises:
        ValueError: Unknown rounding.
    """
    check_choice(rounding, "rounding", ROUNDINGS)
    return _PerGroup(rounding)
