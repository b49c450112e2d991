"""Argument checks whose messages say what was asked, what was got and what would work."""

import copy
import math
from collections.abc import Collection
from numbers import Integral, Real


def check_fraction(value: object, argument: str, *, closed: bool = False) -> float:
    """Return ``value`` as a float in [0, 1), or in [0, 1] where ``closed``.

    Args:
        value: What the user passed.
        argument: Its name, for the message.
        closed: Whether 1 is allowed.

    Raises:
        TypeError: Not a real number.
        ValueError: Outside the range, or not a number.
    """
    interval = "[0, 1]" if closed else "[0, 1)"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{argument} must be a number in {interval}, got {value!r}")
    number = float(value)
    inside = 0.0 <= number <= 1.0 if closed else 0.0 <= number < 1.0
    if math.isnan(number) or not inside:
        hint = f"; {number:g} per cent is {argument}={number / 100:g}" if 1 < number < 100 else ""
        raise ValueError(f"{argument} must lie in {interval}, got {value!r}{hint}")
    return number


def check_count(value: object, argument: str, *, least: int = 1) -> int:
    """Return ``value`` as an int that is at least ``least``.

    Args:
        value: What the user passed.
        argument: Its name, for the message.
        least: Smallest value allowed.

    Raises:
        TypeError: Not an integer.
        ValueError: Below ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{argument} must be an integer of at least {least}, got {value!r}")
    number = int(value)
    if number < least:
        raise ValueError(f"{argument} must be at least {least}, got {number}")
    return number


_OF_STRUCTURES = ("check", "n_units", "n_groups", "unit_of", "group_of", "elements_of")


def check_is_structure(value: object) -> None:
    """Raise ``TypeError`` if ``value`` is no structure, a class of them, or unlike its copy.

    Args:
        value: What the user passed as ``structure``.

    Raises:
        TypeError: It lacks one of the six methods, is not an instance, or does not equal its copy,
            so that no saved state could be told to be of it.
    """
    if isinstance(value, type) or not all(hasattr(value, name) for name in _OF_STRUCTURES):
        made = f"; make one, as in {value.__name__}()" if isinstance(value, type) else ""
        raise TypeError(f"structure must be a structure, got {value!r:.80}{made}")
    if copy.deepcopy(value) != value:
        raise TypeError(
            f"structure must compare by value, and a copy of {value!r:.80} is not equal to it: "
            f"make {type(value).__name__} a frozen dataclass"
        )


def described(value: object) -> str:
    """What a value is, for messages, without what it holds.

    Args:
        value: Anything; of arrays and matrices the shape is given, too.

    Example:
        >>> described([1.0, 2.0])
        'list'
    """
    kind = type(value).__name__
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if not isinstance(shape, tuple):
        return kind
    return f"{kind} of shape {tuple(shape)}{'' if dtype is None else f' and dtype {dtype}'}"


def check_choice(value: object, argument: str, known: Collection[str]) -> str:
    """Return ``value`` if it is one of the known names.

    Args:
        value: What the user passed.
        argument: Its name, for the message.
        known: The names that exist.

    Raises:
        ValueError: Not a known name; the message lists them.
    """
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{argument} must be one of {', '.join(known)}; got {value!r}")
    return value
