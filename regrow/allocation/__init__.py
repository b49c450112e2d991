"""How much of the budget each layer gets: rules (fractions) and counts (whole numbers)."""

from regrow.allocation._budget import allocate, allocate_counts, n_active
from regrow.allocation._rules import (
    RULES,
    Allocation,
    Explicit,
    erdos_renyi,
    erdos_renyi_kernel,
    explicit,
    fixes_sparsity,
    uniform,
)

__all__ = [
    "RULES",
    "Allocation",
    "Explicit",
    "allocate",
    "allocate_counts",
    "erdos_renyi",
    "erdos_renyi_kernel",
    "explicit",
    "fixes_sparsity",
    "n_active",
    "uniform",
]
