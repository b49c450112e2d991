"""Values that depend on the optimizer step alone."""

from __future__ import annotations

import math

from regrow._checks import check_count
from regrow.typing import Schedule


def constant(value: float) -> Schedule:
    """The same value at every step.

    Example:
        >>> constant(0.3)(1000)
        0.3
    """
    return lambda _: value


def linear(first: float, last: float, *, end: int, start: int = 0) -> Schedule:
    """From ``first`` at ``start`` to ``last`` at ``end`` in a straight line, constant outside.

    Raises:
        ValueError: ``end`` is not behind ``start``.
    """
    _check_span(start, end)
    return lambda step: first + (last - first) * _progress(step, start, end)


def cosine(first: float, last: float = 0.0, *, end: int, start: int = 0) -> Schedule:
    """From ``first`` at ``start`` to ``last`` at ``end`` along half a cosine, constant outside.

    RigL's drop fraction is ``cosine(0.3, end=T_end)`` (Evci et al. 2020, section 3.2); ITOP and
    GraNet use ``cosine(0.5, 0.005, end=all steps)``.

    Raises:
        ValueError: ``end`` is not behind ``start``.

    Example:
        >>> round(cosine(0.3, end=100)(50), 4)
        0.15
    """
    _check_span(start, end)

    def value(step: int) -> float:
        progress = _progress(step, start, end)
        return last + (first - last) / 2 * (1 + math.cos(math.pi * progress))

    return value


def cubic(first: float, last: float, *, end: int, start: int = 0) -> Schedule:
    """The sparsity of gradual pruning: fast at first, slow towards the end.

    s(t) = s_f + (s_i - s_f) (1 - (t - t_0) / (t_f - t_0))^3 (Zhu and Gupta 2017, equation 1).

    Args:
        first: Sparsity up to ``start``.
        last: Sparsity from ``end`` on.
        end: Step t_f.
        start: Step t_0.

    Raises:
        ValueError: ``end`` is not behind ``start``.

    Example:
        >>> cubic(0.0, 0.8, end=10)(5)
        0.7000000000000001
    """
    _check_span(start, end)

    def value(step: int) -> float:
        left = 1 - _progress(step, start, end)
        return last + (first - last) * left**3 if left > 0 else last

    return value


def piecewise(*pieces: tuple[int, float]) -> Schedule:
    """Constant pieces: each ``(step, value)`` holds from its step on.

    Args:
        *pieces: Pairs with ascending steps; the first must start at step 0.

    Raises:
        ValueError: No piece, a first step other than 0, or steps out of order.

    Example:
        >>> piecewise((0, 0.1), (50, 0.05))(50)
        0.05
    """
    starts = [start for start, _ in pieces]
    if not starts or starts[0] != 0 or starts != sorted(set(starts)):
        raise ValueError(f"pieces must start at step 0 and ascend, got steps {starts}")
    return lambda step: [value for start, value in pieces if start <= max(step, 0)][-1]


def _check_span(start: int, end: int) -> None:
    check_count(start, "start", least=0)
    if end <= start:
        raise ValueError(f"end must lie behind start={start}, got {end}")


def _progress(step: int, start: int, end: int) -> float:
    return min(max((step - start) / (end - start), 0.0), 1.0)
