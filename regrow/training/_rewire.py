"""One rewiring, decided: layers and criteria in, deltas out; nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from regrow._checks import check_choice, check_fraction
from regrow.criteria import reads_gradient
from regrow.topology import Topology, TopologyDelta, are_among, select_top
from regrow.training._budgets import Budget, Quota, Standing, per_layer
from regrow.training._places import Places, choose_places, unit_scores
from regrow.typing import Criterion, LayerView, Regrow

REGROW: tuple[Regrow, ...] = ("keep", "zero", "never")


def rewire(
    layers: Sequence[LayerView],
    *,
    drop: Criterion,
    grow: Criterion,
    fraction: float,
    budget: Budget | None = None,
    target: float | None = None,
    regrow: Regrow = "keep",
) -> Mapping[str, TopologyDelta]:
    """Decide one drop-and-grow of every layer.

    Args:
        layers: The layers; their names key the result.
        drop: Scores of active units; the lowest go.
        grow: Scores of units that are not active after dropping; the highest enter.
        fraction: Drop fraction in [0, 1] of the active units.
        budget: How many each layer drops and grows; by default as many as it drops.
        target: Sparsity over all layers to move to; None keeps it.
        regrow: A unit that is dropped and chosen again at once ``"keep"``s value and state (RigL,
            ITOP), starts again at ``"zero"`` (MEST), or may ``"never"`` be chosen (DSR; drops are
            then at most the places that were free before). What is pruned towards a target and
            chosen again starts at zero whatever this says (GraNet's code).

    Returns:
        Layer name -> decision. A layer without a gradient, where ``drop`` or ``grow`` reads
        it, drops only towards the target.

    Raises:
        ValueError: ``fraction`` or ``regrow`` is out of range.
    """
    check_fraction(fraction, "fraction", closed=True)
    check_choice(regrow, "regrow", REGROW)
    budget = per_layer() if budget is None else budget
    can_grow = not (reads_gradient(grow) or reads_gradient(drop))

    def leave(some: Sequence[LayerView]) -> list[Leaving | None]:
        standings = [_standing(layer, drop, can_grow=can_grow or layer.has_grad) for layer in some]
        quotas = budget(standings, fraction, target)
        pairs = zip(standings, quotas, strict=True)
        return [_leave(standing, quota, regrow) for standing, quota in pairs]

    def decide(some: Sequence[LayerView]) -> dict[str, TopologyDelta]:
        # Scores of active units are gone before places are looked for: each takes its memory.
        leaving = leave(some)
        return {
            layer.name: _enter(layer, one, grow, regrow)
            for layer, one in zip(some, leaving, strict=True)
        }

    if target is None and getattr(budget, "by_layer", False):
        # One after the other: scores of a single layer are held at a time.
        return {name: delta for layer in layers for name, delta in decide([layer]).items()}
    return decide(layers)


def _standing(layer: LayerView, drop: Criterion, *, can_grow: bool) -> Standing:
    units = layer.topology.units
    scores = unit_scores(layer, drop, units)
    return Standing(layer, scores, can_grow, None if layer.topology.is_compact else units)


class Leaving(NamedTuple):
    """What one layer loses, and how much it gains.

    ``pruned`` are those of the ``dropped`` units that nothing replaces; both ascend. None for a
    layer that keeps its topology.
    """

    dropped: Tensor
    pruned: Tensor | None
    n_grow: int | Tensor


def _leave(standing: Standing, quota: Quota, regrow: Regrow) -> Leaving | None:
    topology = standing.layer.topology
    if topology.n_active == topology.n_allowed and _replaces(quota):
        # Nothing is free: what leaves would be what enters, and "zero" would only reset it.
        return None
    if regrow == "never":
        quota = _within_free_places(standing, quota)
    n_prune, n_drop, n_grow = quota
    survives = _stay(standing, n_prune + n_drop)
    dropped = standing.units_where(~survives)
    if not _any(n_grow):
        return Leaving(dropped, None, 0)
    unpruned = _stay(standing, n_prune) if _any(n_prune) else None
    if standing.groups is not None and not isinstance(n_grow, Tensor):
        n_grow = _lost(standing, survives, unpruned)
    pruned = None if unpruned is None else standing.units_where(~unpruned)
    return Leaving(dropped, pruned, n_grow)


def _enter(
    layer: LayerView, leaving: Leaving | None, grow: Criterion, regrow: Regrow
) -> TopologyDelta:
    topology = layer.topology
    none = torch.empty(0, dtype=torch.int64, device=topology.device)
    if leaving is None:
        return TopologyDelta(none, none)
    dropped, pruned, n_grow = leaving
    if not _any(n_grow):
        return _small(TopologyDelta(dropped, none), topology)
    places = Places(topology, dropped if regrow != "never" else none)
    grown = choose_places(layer, grow, places, n_grow)
    if regrow == "keep":
        # Dropped to make room and chosen again: nothing happened to it.
        back = grown[topology.is_active(grown)]
        if pruned is not None:
            back = back[~are_among(pruned, back)]
        dropped = dropped[~are_among(back, dropped)]
        grown = grown[~are_among(back, grown)]
    return _small(TopologyDelta(dropped, grown), topology)


def _small(delta: TopologyDelta, topology: Topology) -> TopologyDelta:
    """Of compact topologies decisions are held in as few bytes as they need."""
    if not topology.is_compact or topology.n_units > torch.iinfo(torch.int32).max:
        return delta
    return TopologyDelta(delta.dropped.to(torch.int32), delta.grown.to(torch.int32))


def _replaces(quota: Quota) -> bool:
    """Whether all that leaves is replaced, group by group."""
    return not _any(quota.n_prune) and not _any(quota.n_grow - quota.n_drop)


def _any(n: int | Tensor) -> bool:
    return bool(n.any()) if isinstance(n, Tensor) else n != 0


def _stay(standing: Standing, n_out: int | Tensor) -> Tensor:
    """Flags over the active units: all but the ``n_out`` of the lowest scores."""
    flags = torch.zeros(standing.n_active, dtype=torch.bool, device=standing.scores.device)
    if isinstance(n_out, Tensor):
        n_kept = standing.layer.topology.counts() - n_out
        flags[select_top(standing.scores, standing.groups, n_kept)] = True
    else:
        flags[select_top(standing.scores, None, standing.n_active - n_out)] = True
    return flags


def _lost(standing: Standing, survives: Tensor, unpruned: Tensor | None) -> Tensor:
    """How many units each group lost to make room (n_groups,)."""
    topology, groups = standing.layer.topology, standing.groups
    n_groups = topology.structure.n_groups(topology.shape)
    gone = ~survives if unpruned is None else unpruned & ~survives
    return torch.bincount(groups[gone], minlength=n_groups)  # type: ignore[index]


def _within_free_places(standing: Standing, quota: Quota) -> Quota:
    """No more drops than there were free places for what shall take theirs."""
    topology = standing.layer.topology
    if standing.groups is None:
        n_prune, n_drop, n_grow = map(int, quota)
        free = topology.n_allowed - topology.n_active
        surplus = max(n_drop - (free - n_grow + n_drop), 0)
        return Quota(n_prune, n_drop - surplus, n_grow - surplus)
    by_group = quota if isinstance(quota.n_drop, Tensor) else _by_group(standing, quota)
    prune, drop, grow = map(torch.as_tensor, by_group)
    over = (grow - (topology.room - topology.counts())).clamp(min=0)
    return Quota(prune, drop - over, grow - over)


def _by_group(standing: Standing, quota: Quota) -> Quota:
    """What whole numbers over the layer mean for each group."""
    unpruned = _stay(standing, quota.n_prune)
    lost = _lost(standing, _stay(standing, quota.n_prune + quota.n_drop), unpruned)
    return Quota(_lost(standing, unpruned, None), lost, lost)
