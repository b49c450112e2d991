"""The nineteen common corruptions of Hendrycks and Dietterich (ICLR 2019), batched.

Each corruption is a pair: a function that draws the random numbers of one image, and a pure
function that transforms a batch given those numbers.
"""

from regrow.robustness.corruptions._corrupt import corrupt, corrupt_seeded
from regrow.robustness.corruptions._registry import (
    ALL,
    COMMON,
    DETERMINISTIC,
    EXTRA,
    available,
)

__all__ = ["ALL", "COMMON", "DETERMINISTIC", "EXTRA", "available", "corrupt", "corrupt_seeded"]
