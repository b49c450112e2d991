"""Weights of samples: checked, and carried to the loss beside the targets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from regrow._optional import require

validation = require("sklearn.utils.validation", extra="sklearn")


def check_weights(sample_weight: ArrayLike | None, x: Any) -> NDArray[np.float64]:  # noqa: ANN401
    """One weight a sample (N,), the largest 1: equal weights are ones exactly, as None is.

    Raises:
        ValueError: They are of another shape, not finite, negative, or all zero.
    """
    weights = validation._check_sample_weight(sample_weight, x, dtype=np.float64)
    if not weights.min() >= 0:
        raise ValueError(f"sample_weight must be at least 0, got {weights.min()}")
    largest = weights.max()
    if not 0 < largest < np.inf:
        raise ValueError(
            f"sample_weight must be finite, and not zero for every sample; the largest is {largest}"
        )
    checked: NDArray[np.float64] = weights / largest
    return checked


def without_zeros(
    x: Any,  # noqa: ANN401
    targets: NDArray[Any],
    weights: NDArray[np.float64],
) -> tuple[Any, NDArray[Any], NDArray[np.float64]]:
    """The samples that count, so that the others take no place in a batch."""
    counts = weights > 0
    return (x, targets, weights) if counts.all() else (x[counts], targets[counts], weights[counts])


def beside(targets: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[Any]:
    """Targets as the losses below take them: where weights differ, with a column of them.

    Their mean is 1 over all samples, not over each batch: the expected gradient of a step is then
    that of samples which are there as often as they weigh, whatever the size of a batch.
    """
    if (weights == weights[0]).all():
        return targets
    return np.column_stack([targets, weights / weights.mean()])


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy.

    Args:
        outputs: (B, n_classes).
        targets: Codes of classes (B,) int64, or codes and weights (B, 2) float64.

    Returns:
        The mean of weight * loss over the batch.
    """
    if targets.ndim == 1:
        return F.cross_entropy(outputs, targets)
    losses = F.cross_entropy(outputs, targets[:, 0].long(), reduction="none")
    return (losses * targets[:, 1].to(losses.dtype)).mean()


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error.

    Args:
        outputs: (B, n_outputs).
        targets: Of the same shape, or with one more column of weights.

    Returns:
        The mean of weight * loss over the batch.
    """
    if targets.shape == outputs.shape:
        return F.mse_loss(outputs, targets)
    losses = (outputs - targets[:, :-1]).square().mean(1)
    return (losses * targets[:, -1]).mean()
