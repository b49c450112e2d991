"""Criteria made of criteria."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from regrow.criteria._scores import Score, reads_gradient, reads_past
from regrow.typing import Criterion, LayerView


def weighted_sum(*terms: tuple[Criterion, float]) -> Score:
    """The sum of criteria, each times its weight.

    MEST ranks by ``weighted_sum((magnitude, 1.0), (gradient, lam))`` (its code's default is
    lam = 0, which is ``magnitude`` alone).

    Args:
        *terms: Pairs of a criterion and its weight.

    Returns:
        A criterion that reads the gradient if one of its terms with a weight other than 0 does.

    Raises:
        ValueError: No term with a weight other than 0.
    """
    used = [(criterion, weight) for criterion, weight in terms if weight != 0]
    if not used:
        raise ValueError(
            "weighted_sum needs at least one (criterion, weight) pair with a weight other than 0, "
            f"got {list(terms)}"
        )

    def function(layer: LayerView, flat: Tensor) -> Tensor:
        first, weight = used[0]
        total = weight * first(layer, flat)
        for criterion, weight in used[1:]:
            total = total + weight * criterion(layer, flat)
        return total

    name = " + ".join(f"{weight:g} {criterion!r}" for criterion, weight in used)
    return _combined(name, function, [criterion for criterion, _ in used])


def product(*factors: Criterion) -> Score:
    """The product of criteria.

    ``product(magnitude, gradient)`` is ``saliency``.

    Args:
        *factors: Criteria, at least one.

    Returns:
        A criterion that reads the gradient if one of its factors does.

    Raises:
        ValueError: No factor.
    """
    if not factors:
        raise ValueError("product needs at least one criterion, got none")

    def function(layer: LayerView, flat: Tensor) -> Tensor:
        total = factors[0](layer, flat)
        for criterion in factors[1:]:
            total = total * criterion(layer, flat)
        return total

    return _combined(" * ".join(map(repr, factors)), function, factors)


def _combined(
    name: str, function: Callable[[LayerView, Tensor], Tensor], parts: Sequence[Criterion]
) -> Score:
    """It reads the gradient if any part does, and scores units as such if all do."""
    return Score(
        name,
        function,
        reads_gradient=any(map(reads_gradient, parts)),
        by_unit=all(getattr(part, "by_unit", False) for part in parts),
        reads_past=any(map(reads_past, parts)),
    )
