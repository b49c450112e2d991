"""Grey levels to fractions and back, as the published programs do it."""

import numpy as np
from numpy.typing import NDArray

from regrow.robustness.corruptions._types import Images


def fractions(images: Images) -> NDArray[np.float64]:
    """Grey levels divided by 255, in float64."""
    return images / 255.0


def single_fractions(images: Images) -> NDArray[np.float32]:
    """Grey levels divided by 255, in float32."""
    return images.astype(np.float32) / np.float32(255)


def grey_levels(values: NDArray[np.floating]) -> Images:
    """Fractions to grey levels: clipped to [0, 1], times 255, **truncated**.

    The published images were truncated and not rounded, half a level darker on average.

    Args:
        values: float32 or float64, any shape; overwritten.

    Returns:
        uint8 of the same shape.
    """
    np.maximum(values, 0, out=values)
    np.minimum(values, 1, out=values)
    values *= 255
    return values.astype(np.uint8)
