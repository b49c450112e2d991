"""Layers for the tests of budgets: weights 1, 2, 3 ... and a topology that holds the first."""

import torch
from torch import nn

from regrow.topology import Topology
from regrow.training import MaskedWeight, Standing


def layer(name: str, n_units: int, n_active: int, *, grad: bool = True) -> MaskedWeight:
    weight = torch.zeros(1, n_units)
    weight[0, :n_active] = torch.arange(1.0, n_active + 1)
    mask = torch.arange(n_units).view(1, -1) < n_active
    made = MaskedWeight(name, nn.Parameter(weight), Topology.from_mask(mask))
    made.begin(0, 1, torch.ones(1, n_units) if grad else None)
    return made


def standing(one: MaskedWeight, *, can_grow: bool = True) -> Standing:
    units = one.topology.units
    scores = one.weight_at(units).abs()
    return Standing(layer=one, held_units=units, scores=scores, can_grow=can_grow)


def standings(
    sizes: list[tuple[int, int]], *, can_grow: list[bool] | None = None
) -> list[Standing]:
    flags = [True] * len(sizes) if can_grow is None else can_grow
    return [
        standing(layer(f"l{i}", n_units, n_active), can_grow=flag)
        for i, ((n_units, n_active), flag) in enumerate(zip(sizes, flags, strict=True))
    ]
