"""Units counted group by group, and a bounded number at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from regrow.topology._structure import Structure
from regrow.typing import Shape

AT_ONCE = 2**20
"""Units that are looked at together where looking at all of them would take dense memory."""


def unit_bounds(
    n_units: int, *, at_once: int | None = None, row: int = 1
) -> Iterator[tuple[int, int]]:
    """All units from 0 on as ranges [low, high), at most 2**20 at a time.

    Args:
        n_units: How many there are.
        at_once: Fewer at a time.
        row: A multiple of this, where so many fit.
    """
    step = AT_ONCE if at_once is None else min(at_once, AT_ONCE)
    step -= step % row if step > row else 0
    for low in range(0, n_units, step):
        yield low, min(low + step, n_units)


def unit_ranges(n_units: int, device: torch.device | str = "cpu") -> Iterator[Tensor]:
    """The same as tensors, ascending int64.

    Args:
        n_units: How many there are.
        device: Of the tensors.
    """
    for low, high in unit_bounds(n_units):
        yield torch.arange(low, high, device=device)


def per_group(structure: Structure, shape: Shape, units: Tensor) -> Tensor:
    """How many of the units (n,) are in each group (n_groups,) int64."""
    groups = structure.group_of(units, shape)
    return torch.bincount(groups, minlength=structure.n_groups(shape))


def room_of(
    structure: Structure, shape: Shape, allowed: Tensor | None, device: torch.device | str = "cpu"
) -> Tensor:
    """The most active units that each group can hold (n_groups,) int64."""
    if allowed is not None:
        return per_group(structure, shape, allowed.nonzero().squeeze(1))
    n_units, n_groups = structure.n_units(shape), structure.n_groups(shape)
    if n_groups == 1:
        return torch.tensor([n_units], device=device)
    room = torch.zeros(n_groups, dtype=torch.int64, device=device)
    for units in unit_ranges(n_units, device):
        room += per_group(structure, shape, units)
    return room
