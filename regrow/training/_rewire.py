"""One rewiring, decided: layers and criteria in, deltas out; nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from regrow._checks import check_choice, check_fraction
from regrow.criteria import reads_gradient
from regrow.topology import TopologyDelta, select_top
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
        Layer name -> decision. A layer without a gradient, where ``grow`` reads it, drops only
        towards the target.

    Raises:
        ValueError: ``fraction`` or ``regrow`` is out of range.
    """
    check_fraction(fraction, "fraction", closed=True)
    check_choice(regrow, "regrow", REGROW)
    budget = per_layer() if budget is None else budget
    needs_grad = reads_gradient(grow)
    standings = [
        Standing(
            layer,
            _unit_scores(layer, drop, layer.topology.units),
            can_grow=layer.has_grad or not needs_grad,
        )
        for layer in layers
    ]
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
    layer, topology = standing.layer, standing.layer.topology
    n_prune, n_drop, n_grow = quota
    if regrow == "never":
        surplus = max(n_drop - (topology.n_units - topology.n_active - (n_grow - n_drop)), 0)
        n_drop, n_grow = n_drop - surplus, n_grow - surplus
    units = topology.units
    stays = _kept(standing, topology.n_active - n_prune)
    survives = _kept(standing, topology.n_active - n_prune - n_drop)
    gone = torch.ones_like(units, dtype=torch.bool)
    gone[survives] = False
    dropped = units[gone]
    if not n_grow:
        return TopologyDelta(dropped, dropped.new_empty(0))

    free = ~topology.active
    if regrow != "never":
        free[dropped] = True
    candidates = free.nonzero().squeeze(1)
    scores = _unit_scores(layer, grow, candidates)
    groups, counts = _growth_counts(standing, survives, candidates, n_grow)
    grown = candidates[select_top(scores, groups, counts)]
    if regrow == "keep":
        # Dropped to make room and chosen again: nothing happened to it.
        only_dropped = torch.zeros_like(topology.active)
        only_dropped[dropped] = True
        pruned = torch.ones_like(gone)
        pruned[stays] = False
        only_dropped[units[pruned]] = False
        back = grown[only_dropped[grown]]
        only_dropped.zero_()
        only_dropped[back] = True
        dropped, grown = dropped[~only_dropped[dropped]], grown[~only_dropped[grown]]
    return TopologyDelta(dropped, grown)


def _kept(standing: Standing, n_kept: int) -> Tensor:
    return select_top(standing.scores, None, n_kept)


def _growth_counts(
    standing: Standing, survives: Tensor, candidates: Tensor, n_grow: int
) -> tuple[Tensor | None, Tensor | int]:
    """Which group each candidate is in, and how many each group grows: as many as it lost.

    Drops are chosen over the whole layer: with two units a group, a count of drops for each
    group would round to none and the topology would never move.
    """
    topology = standing.layer.topology
    structure, shape = topology.structure, topology.shape
    if structure.n_groups(shape) == 1:
        return None, n_grow
    before = structure.group_of(topology.units, shape)
    after = structure.group_of(topology.units[survives], shape)
    n_groups = structure.n_groups(shape)
    lost = torch.bincount(before, minlength=n_groups) - torch.bincount(after, minlength=n_groups)
    return structure.group_of(candidates, shape), lost
