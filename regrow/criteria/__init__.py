"""Criteria: functions that score positions; high survives a drop, or enters by growth."""

from regrow.criteria._combine import product, weighted_sum
from regrow.criteria._scores import (
    Score,
    gradient,
    is_uniform,
    magnitude,
    never_active,
    random,
    reads_gradient,
    reads_past,
    saliency,
    signed_magnitude,
)

__all__ = [
    "Score",
    "gradient",
    "is_uniform",
    "magnitude",
    "never_active",
    "product",
    "random",
    "reads_gradient",
    "reads_past",
    "saliency",
    "signed_magnitude",
    "weighted_sum",
]
