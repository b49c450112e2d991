"""Scores of positions: high survives, or enters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from regrow.typing import Criterion, LayerView

_AT_ONCE = 2**13
_MOST = 2**32 - 1


@final
@dataclass(frozen=True)
class Score:
    """A criterion with a name, which says whether it reads gradients.

    A plain function ``(layer, flat) -> scores`` is a criterion too; regrow then assumes that it
    reads the gradient of the dense loss, and provides it on each step that rewires.

    Args:
        name: For reports.
        function: (layer, flat positions (n,)) -> scores (n,).
        reads_gradient: Whether ``function`` calls ``layer.grad_at``.
        on_whole: Whether ``function`` may also be asked for a whole layer or a run of places at
            once, with ``slice(None)`` or ``slice(low, high)`` as ``flat``; true of functions that
            only read ``layer.weight_at`` and ``grad_at``, elementwise, and never score -inf. It
            spares the gather.
        by_unit: Whether one score for each unit is meant, whatever its elements hold: the criterion
            is then asked for the first element of each unit. Other scores are summed over a unit.
        uniform: Whether all places are equally likely to score highest, whatever they hold: places
            may then be drawn without scoring the others.
        reads_past: Whether ``function`` calls ``layer.ever_active_at``, which truly sparse layers
            do not have.

    Example:
        >>> smallest = Score("smallest", lambda layer, flat: -layer.weight_at(flat).abs())
    """

    name: str
    function: Callable[[LayerView, Tensor], Tensor]
    reads_gradient: bool = False
    on_whole: bool = False
    by_unit: bool = False
    uniform: bool = False
    reads_past: bool = False

    def __call__(self, layer: LayerView, flat: Tensor) -> Tensor:
        return self.function(layer, flat)

    def __repr__(self) -> str:
        return self.name


def reads_gradient(criterion: Criterion) -> bool:
    """Whether a criterion reads the dense gradient; True unless it says otherwise."""
    return bool(getattr(criterion, "reads_gradient", True))


def is_uniform(criterion: Criterion) -> bool:
    """Whether a criterion says that it draws places uniformly."""
    return bool(getattr(criterion, "uniform", False))


def reads_past(criterion: Criterion) -> bool:
    """Whether a criterion says that it asks what was ever active."""
    return bool(getattr(criterion, "reads_past", False))


def _wide(values: Tensor) -> Tensor:
    """Half precision has too few digits to rank by; float32 and float64 stay as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _magnitude(layer: LayerView, flat: Tensor) -> Tensor:
    return _wide(layer.weight_at(flat)).abs()


def _gradient(layer: LayerView, flat: Tensor) -> Tensor:
    return _wide(layer.grad_at(flat)).abs()


def _saliency(layer: LayerView, flat: Tensor) -> Tensor:
    return (_wide(layer.weight_at(flat)) * _wide(layer.grad_at(flat))).abs()


def _random(layer: LayerView, flat: Tensor) -> Tensor:
    # Doubles, drawn on the CPU: no ties, and the same draws whatever the device.
    draws = torch.rand(flat.numel(), generator=layer.generator, dtype=torch.float64)
    return draws.to(flat.device)


def _never_active(layer: LayerView, flat: Tensor) -> Tensor:
    return (~layer.ever_active_at(flat)).double()


def _signed_magnitude(layer: LayerView, flat: Tensor) -> Tensor:
    """Rank within the own sign, from 0 (nearest to zero) to 1."""
    weights = _wide(layer.weight_at(flat))
    scores = torch.empty_like(weights)
    positive = weights >= 0
    _rank(weights, positive, scores)
    _rank(weights, positive.logical_not_(), scores)
    return scores


def _rank(weights: Tensor, side: Tensor, scores: Tensor) -> None:
    """Write the scores of one side, a few at a time."""
    order = _by_magnitude(weights, side.nonzero().squeeze(1))
    for first in range(0, order.numel(), _AT_ONCE):
        members = order[first : first + _AT_ONCE]
        ranks = torch.arange(first, first + members.numel(), device=order.device)
        scores[members] = ((ranks + 0.5) / order.numel()).to(scores.dtype)


def _by_magnitude(weights: Tensor, members: Tensor) -> Tensor:
    """Some ascending places (n,) int64 in the order of |weight|, equal ones by place.

    Args:
        weights: (m,).
        members: Written to.
    """
    if weights.dtype != torch.float32 or weights.device.type != "cpu" or weights.numel() > _MOST:
        return members[torch.sort(weights[members].abs(), stable=True).indices]
    # The bits of such numbers are in their order: before those of the place they make one key that
    # numpy sorts in place. A stable sort by torch takes five times the memory.
    for first in range(0, members.numel(), _AT_ONCE):
        some = members[first : first + _AT_ONCE]
        bits = weights[some].abs().view(torch.int32)
        some.add_(bits.to(torch.int64).bitwise_left_shift_(32))
    members.numpy().sort()
    return members.bitwise_and_(_MOST)


magnitude = Score("magnitude", _magnitude)
"""|w|: RigL, GraNet, MEST, ITOP, GMP."""

signed_magnitude = Score("signed_magnitude", _signed_magnitude)
"""SET (Mocanu et al. 2018): the same fraction of the positive weights nearest to zero and of the
negative ones nearest to zero is dropped, each to within one unit. A weight that is exactly zero
counts with the positive ones; SET's own code takes such a weight for an empty place."""

gradient = Score("gradient", _gradient, reads_gradient=True, on_whole=True)
"""|dL/dw| of the dense loss: RigL (Evci et al. 2020, section 3.3)."""

saliency = Score("saliency", _saliency, reads_gradient=True)
"""|w dL/dw|: first-order change of the loss where a weight goes."""

random = Score("random", _random, by_unit=True, uniform=True)
"""Uniform draws from the layer's derived generator: SET, DSR, MEST."""

never_active = Score("never_active", _never_active, by_unit=True, reads_past=True)
"""1 where the unit was never active, else 0. ITOP's option to grow what is new first (Liu et al.
2021) is ``weighted_sum((never_active, 1.0), (random, 1.0))``: draws lie below 1."""
