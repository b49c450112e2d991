"""Criteria made of criteria."""

from __future__ import annotations

from torch import Tensor

from regrow.criteria._scores import Score, reads_gradient
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
    reads = any(reads_gradient(criterion) for criterion, _ in used)
    return Score(name, function, reads_gradient=reads)
