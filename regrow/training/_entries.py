"""Entries of a saved state, each of the plain type it was written as; anything else is refused.

What a file holds may be anything: messages never print it, since even that can fail (a list in
itself, an integer of a million digits).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from regrow.errors import SparsityError

_T = TypeVar("_T")
# Half of int64, so that counting on from there stays within it.
_MOST = 2**62


def entry(state: object, key: str, kind: type[_T]) -> _T:
    """The value of a key, of this very type.

    Raises:
        SparsityError: No dict, no such key, or a value of another type.
    """
    value = state.get(key) if isinstance(state, Mapping) else None
    if type(value) is not kind:
        raise SparsityError(
            f"the updater's state must have {key!r} of type {kind.__name__}, got "
            f"{type(value).__name__}: pass what state_dict() returned"
        )
    return value


def mapping(state: object, key: str) -> Mapping[str, object]:
    """A dict with strings as keys.

    Raises:
        SparsityError: Something else.
    """
    value = state.get(key) if isinstance(state, Mapping) else None
    if not isinstance(value, Mapping) or not all(type(name) is str for name in value):
        raise SparsityError(
            f"the updater's state must have {key!r} as a dict of names, got "
            f"{type(value).__name__}: pass what state_dict() returned"
        )
    return value


def refuse(state: object, key: str, reason: str) -> None:
    """Raise ``SparsityError`` where the state has an entry that it must not have."""
    if isinstance(state, Mapping) and key in state:
        raise SparsityError(f"the updater's state has {key!r}, but {reason}")


def integer(state: object, key: str, *, least: int = 0, most: int = _MOST) -> int:
    """A whole number in [least, most].

    Raises:
        SparsityError: Something else.
    """
    value = entry(state, key, int)
    if not least <= value <= most:
        raise SparsityError(f"the updater's state has {key!r} outside [{least:.3g}, {most:.3g}]")
    return value


def integers(
    state: object, key: str, n: int | None = None, *, least: int = 0, most: int = _MOST
) -> list[int]:
    """``n`` whole numbers in [least, most], or any number of them.

    Raises:
        SparsityError: Something else.
    """
    values = entry(state, key, list)
    plain = all(type(value) is int and least <= value <= most for value in values)
    if not plain or n not in (None, len(values)):
        how_many = "" if n is None else f"{n} "
        raise SparsityError(
            f"the updater's state must have {key!r} as a list of {how_many}whole numbers of at "
            f"least {least}, got {len(values)} values" + ("" if plain else " that are not all such")
        )
    return list(values)


def tensor(state: object, key: str) -> Tensor:
    """A plain tensor, each element of which is stored.

    A file can name more elements than it holds: a tensor of stride 0 takes all memory once it is
    read element by element.

    Raises:
        SparsityError: Something else.
    """
    value = entry(state, key, Tensor)
    if value.is_nested or value.layout != torch.strided or value.is_meta or value.is_neg():
        raise SparsityError(f"the updater's state must have {key!r} as a plain dense tensor")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise SparsityError(
            f"the updater's state has {key!r} with {value.numel()} elements, which its "
            f"{value.untyped_storage().nbytes()} bytes do not hold"
        )
    return value
