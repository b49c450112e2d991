"""One rewiring, decided: layers and criteria in, deltas out; nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from regrow._checks import check_choice, check_fraction
from regrow.criteria import reads_gradient
from regrow.topology import TopologyDelta, Unstructured, select_top
from regrow.training._budgets import Budget, Quota, Standing, per_layer
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
    needs_grad = reads_gradient(grow) or reads_gradient(drop)
    standings = []
    for layer in layers:
        units = layer.topology.units
        scores = _unit_scores(layer, drop, units)
        standings.append(Standing(layer, units, scores, layer.has_grad or not needs_grad))
    quotas = budget(standings, fraction, target)
    return {
        standing.layer.name: _decide(standing, quota, grow, regrow)
        for standing, quota in zip(standings, quotas, strict=True)
    }


def _unit_scores(layer: LayerView, criterion: Criterion, units: Tensor) -> Tensor:
    """Scores of units: the sum over their elements."""
    topology = layer.topology
    elements = topology.structure.elements_of(units, topology.shape)
    scores = criterion(layer, elements.reshape(-1))
    return scores if elements.shape[1] == 1 else scores.view(elements.shape).sum(dim=1)


def _decide(standing: Standing, quota: Quota, grow: Criterion, regrow: Regrow) -> TopologyDelta:
    layer, topology, units = standing.layer, standing.layer.topology, standing.units
    n_prune, n_drop, n_grow = quota
    if regrow == "never":
        surplus = max(n_drop - (topology.n_units - topology.n_active - (n_grow - n_drop)), 0)
        n_drop, n_grow = n_drop - surplus, n_grow - surplus
    survives = _stay(standing, topology.n_active - n_prune - n_drop)
    dropped = units[~survives]
    if not n_grow:
        return TopologyDelta(dropped, dropped.new_empty(0))
    taken = topology.active.clone()
    if regrow != "never":
        taken[dropped] = False
    grown = _grow(layer, grow, taken, units[survives], n_grow)
    if regrow != "keep":
        return TopologyDelta(dropped, grown)
    # Dropped to make room and chosen again: nothing happened to it.
    back = grown[topology.active[grown]]
    if n_prune:
        pruned = units[~_stay(standing, topology.n_active - n_prune)]
        back = back[~torch.isin(back, pruned, assume_unique=True)]
    return TopologyDelta(
        dropped[~torch.isin(dropped, back, assume_unique=True)],
        grown[~torch.isin(grown, back, assume_unique=True)],
    )


def _stay(standing: Standing, n_kept: int) -> Tensor:
    """Flags over the active units: the ``n_kept`` of the highest scores."""
    flags = torch.zeros_like(standing.units, dtype=torch.bool)
    flags[select_top(standing.scores, None, n_kept)] = True
    return flags


def _grow(
    layer: LayerView, criterion: Criterion, taken: Tensor, survivors: Tensor, n_grow: int
) -> Tensor:
    """The units that enter, ascending: the highest scores among those that are not taken."""
    structure, shape = layer.topology.structure, layer.topology.shape
    on_whole = layer.holds_dense and getattr(criterion, "on_whole", False)
    if on_whole and isinstance(structure, Unstructured):
        scores = criterion(layer, slice(None))  # type: ignore[arg-type]
        grown = select_top(scores.masked_fill_(taken, -torch.inf), None, n_grow)
        if not bool(taken[grown].any()):  # NaN ranks as low as what is taken
            return grown
    candidates = (~taken).nonzero().squeeze(1)
    scores = _unit_scores(layer, criterion, candidates)
    if structure.n_groups(shape) == 1:
        return candidates[select_top(scores, None, n_grow)]
    groups, counts = _growth_counts(layer, survivors, candidates)
    return candidates[select_top(scores, groups, counts)]


def _growth_counts(
    layer: LayerView, survivors: Tensor, candidates: Tensor
) -> tuple[Tensor, Tensor]:
    """Which group each candidate is in, and how many each group grows: as many as it lost.

    Drops are chosen over the whole layer: with two units a group, a count of drops for each
    group would round to none and the topology would never move.
    """
    structure, shape = layer.topology.structure, layer.topology.shape
    n_groups = structure.n_groups(shape)
    left = torch.bincount(structure.group_of(survivors, shape), minlength=n_groups)
    return structure.group_of(candidates, shape), layer.topology.counts() - left
