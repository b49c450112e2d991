"""What a structure is: what is dropped as one (the unit), and where the count is fixed (group)."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Protocol

import torch
from torch import Tensor

from regrow._checks import check_is_structure
from regrow.errors import SparsityError
from regrow.typing import Shape


class Structure(Protocol):
    """Integer arithmetic on positions; serves masks and index lists alike.

    Elements are flat, row-major positions of the weight. Units partition the elements into sets
    of equal size; groups partition the units. A class that implements the six methods is a
    structure, a frozen dataclass best; ``check_structure`` proves it on a shape. Derive from this
    one to inherit the two properties.
    """

    @property
    def even_groups(self) -> bool:
        """Whether each group holds as many active units as any other, empty ones aside."""
        return False

    @property
    def fixed_sparsity(self) -> float | None:
        """The sparsity that the structure itself fixes, group by group; None where it does not."""
        return None

    def check(self, shape: Shape) -> None:
        """Raise ``SparsityError`` with the reason if weights of ``shape`` have no such units."""

    def n_units(self, shape: Shape) -> int:
        """Number of units of a weight of ``shape``."""

    def n_groups(self, shape: Shape) -> int:
        """Number of groups of a weight of ``shape``."""

    def unit_of(self, flat: Tensor, shape: Shape) -> Tensor:
        """Unit of each element ``flat`` (n,) int64 -> (n,) int64."""

    def group_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """Group of each unit (n,) int64 -> (n,) int64."""

    def elements_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """Elements of each unit (n,) int64 -> (n, elements a unit) int64."""


def structure_tag(structure: Structure) -> str:
    """A structure as saved states name it: its class and the fields that are not at their default.

    A field that a later version adds, with a default, leaves it as it was.

    Example:
        >>> from regrow.topology import NM, Kernel, Transposed
        >>> structure_tag(NM(2, 4)), structure_tag(Transposed(Kernel(per_output=True)))
        ('NM(n=2, m=4)', 'Transposed(structure=Kernel(per_output=True))')
    """
    if not is_dataclass(structure):
        return repr(structure)
    told = []
    for one in fields(structure):
        value = getattr(structure, one.name)
        if value != one.default:
            text = structure_tag(value) if is_dataclass(value) else repr(value)
            told.append(f"{one.name}={text}")
    return f"{type(structure).__name__}({', '.join(told)})"


def unit_size(structure: Structure, shape: Shape) -> int:
    """Elements of one unit of a weight of ``shape``."""
    return math.prod(shape) // structure.n_units(shape)


def check_structure(structure: Structure, shape: Shape) -> None:
    """Prove, element by element, that a structure is one: for tests of your own.

    Args:
        structure: What shall be a structure.
        shape: A weight's shape; small, since every element is looked at.

    Raises:
        TypeError: It lacks a method, or does not compare by value.
        SparsityError: The shape is refused, units do not partition the elements into sets of
            equal size, ``unit_of`` contradicts ``elements_of``, or groups do not partition the
            units.

    Example:
        >>> from regrow.topology import Block
        >>> check_structure(Block(2, 2), (4, 6))
    """
    check_is_structure(structure)
    structure.check(shape)
    n, n_units, n_groups = math.prod(shape), structure.n_units(shape), structure.n_groups(shape)
    units = torch.arange(n_units)
    elements = structure.elements_of(units, shape)
    structure.elements_of(units[:0], shape)  # of no units it must not fail
    if n % n_units or tuple(elements.shape) != (n_units, n // n_units):
        raise SparsityError(
            f"{structure} has {n_units} units in a weight of {n} elements; elements_of gives "
            f"shape {tuple(elements.shape)} where ({n_units}, {n / n_units:g}) is wanted"
        )
    if not torch.equal(torch.sort(elements.reshape(-1)).values, torch.arange(n)):
        raise SparsityError(f"the units of {structure} do not hold each of {n} elements once")
    if not torch.equal(
        structure.unit_of(elements.reshape(-1), shape), units.repeat_interleave(elements.shape[1])
    ):
        raise SparsityError(f"unit_of of {structure} contradicts its elements_of")
    groups = structure.group_of(units, shape)
    if not torch.equal(torch.unique(groups), torch.arange(n_groups)):
        raise SparsityError(
            f"group_of of {structure} must use each of the {n_groups} groups and no other, got "
            f"{torch.unique(groups).tolist()[:10]}"
        )


def check_counts(structure: Structure, counts: Tensor, shape: Shape) -> None:
    """Raise if a topology may not have these active units in each group.

    Args:
        structure: What a unit and a group are.
        counts: (n_groups,) int64.
        shape: Of the weight.

    Raises:
        SparsityError: Groups differ where the structure makes them even, or hold another number
            than the one it fixes.
    """
    fixed = structure.fixed_sparsity
    if fixed is not None:
        wanted = round(structure.n_units(shape) / counts.numel() * (1 - fixed))
        if bool((counts != wanted).any()):
            raise SparsityError(
                f"{structure} has {wanted} active units in every group, got groups of "
                f"{torch.unique(counts).tolist()[:10]}"
            )
    elif structure.even_groups:
        filled = counts[counts > 0]
        if filled.numel() and bool((filled != filled[0]).any()):
            raise SparsityError(
                f"{structure} has as many active units in one group as in any other, got groups "
                f"of {torch.unique(counts).tolist()[:10]}"
            )


def spread_over_groups(structure: Structure, total: int, room: Tensor) -> Tensor:
    """Split a number of units over the groups of a weight, in proportion to their room.

    Args:
        structure: What a unit and a group are.
        total: Units in all.
        room: (n_groups,) int64, the most that each group can hold.

    Returns:
        (n_groups,) int64 that sums to ``total``: even where the structure makes groups even,
        else by largest remainders, ties to the lower group.

    Raises:
        SparsityError: ``total`` exceeds the room, or cannot be split evenly.
    """
    n_groups = room.numel()
    if not 0 <= total <= int(room.sum()):
        raise SparsityError(f"cannot place {total} units where there is room for {int(room.sum())}")
    if structure.even_groups or structure.fixed_sparsity is not None:
        share, left = divmod(total, n_groups)
        if left or share > int(room.min()):
            raise SparsityError(
                f"{structure} has as many units in one group as in any other: {total} cannot be "
                f"split over {n_groups} groups that hold {int(room.min())} or more"
            )
        return torch.full_like(room, share)
    exact = room.double() * (total / max(int(room.sum()), 1))
    counts = (exact + 1e-9).floor().to(torch.int64)
    by_remainder = torch.sort(counts - exact, stable=True).indices
    counts[by_remainder[: total - int(counts.sum())]] += 1
    return counts
