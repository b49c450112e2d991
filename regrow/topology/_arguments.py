"""Checks of what a topology is built from; all of them before anything is allocated."""

from __future__ import annotations

import math
from operator import index
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regrow._checks import check_is_structure
from regrow.errors import SparsityError
from regrow.typing import Shape

if TYPE_CHECKING:
    from regrow.topology._structure import Structure

_MOST_ELEMENTS = 2**63 - 1


def check_shape(shape: object, structure: object) -> Shape:
    """``shape`` as a tuple of integers that the structure admits.

    Raises:
        TypeError: Not a tuple or list of integers, or ``structure`` is none.
        SparsityError: A negative length, more elements than can be counted, or the structure has
            no units in such a weight.
    """
    check_is_structure(structure)
    lengths = list(shape) if isinstance(shape, tuple | list) else [None]
    try:
        checked = tuple(index(n) for n in lengths if not isinstance(n, bool))  # type: ignore[arg-type]
    except TypeError:
        checked = ()
    if len(checked) < len(lengths):
        raise TypeError(f"shape must be a tuple of integers, got {type(shape).__name__}")
    if any(n < 0 for n in checked) or math.prod(checked) > _MOST_ELEMENTS:
        raise SparsityError(
            f"shape must hold lengths of at least 0 and at most {_MOST_ELEMENTS} elements in all"
        )
    structure.check(checked)  # type: ignore[attr-defined]
    return checked


def check_tensor(value: object, argument: str) -> Tensor:
    """``value`` as a tensor that holds one element beside the other, in memory.

    Raises:
        TypeError: No tensor.
        SparsityError: A sparse or nested tensor, or one on the meta device.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument} must be a torch.Tensor, got {type(value).__name__}")
    if value.is_nested or value.layout != torch.strided or value.is_meta:
        kind = "on the meta device" if value.is_meta else "sparse or nested"
        raise SparsityError(
            f"{argument} must be a dense tensor with values, got one that is {kind}"
        )
    return value


def check_flags(flags: object, argument: str, structure: Structure, shape: Shape) -> Tensor:
    """``flags`` as one boolean for each unit.

    Raises:
        TypeError: No tensor.
        SparsityError: Another dtype or number.
    """
    found, wanted = check_tensor(flags, argument), (structure.n_units(shape),)
    if found.dtype != torch.bool or tuple(found.shape) != wanted:
        raise SparsityError(
            f"{argument} must be a bool tensor of shape {wanted} for a weight of shape {shape}, "
            f"got {found.dtype} of shape {tuple(found.shape)}"
        )
    return found


def check_allowed(allowed: object, active: Tensor, structure: Structure, shape: Shape) -> None:
    """Raise if an active unit is not allowed.

    Raises:
        TypeError: ``allowed`` is no tensor.
        SparsityError: It is not one boolean a unit, on another device, or rules out active units.
    """
    flags = check_flags(allowed, "allowed", structure, shape)
    if flags.device != active.device:
        raise SparsityError(
            f"allowed must be on {active.device} as the active units are, got {flags.device}"
        )
    outside = (active & ~flags).nonzero().squeeze(1)
    if outside.numel():
        raise SparsityError(
            f"{outside.numel()} active units are not allowed: {outside[:5].tolist()} ..."
        )


def check_units(units: object, n_units: int, argument: str = "units") -> Tensor:
    """``units`` as ascending indices of units.

    Raises:
        TypeError: No tensor.
        SparsityError: Another dtype or shape; out of order, repeated or out of range.
    """
    found = check_tensor(units, argument)
    if found.dim() != 1 or found.dtype not in (torch.int32, torch.int64):
        raise SparsityError(
            f"{argument} must be a one-dimensional tensor of int64 (or int32), "
            f"got {found.dtype} of shape {tuple(found.shape)}"
        )
    if found.numel() and (
        int(found[0]) < 0 or int(found[-1]) >= n_units or bool((found[1:] <= found[:-1]).any())
    ):
        raise SparsityError(
            f"{argument} must be ascending, without repeats, and lie in [0, {n_units})"
        )
    return found


def same_flags(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether both say the same, or nothing."""
    return torch.equal(a, b) if a is not None and b is not None else a is b
