"""Motion blur along a line, as ImageMagick computes it."""

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from regrow.robustness.corruptions._types import Batch, Draws, Generators, Images

# Weights below this share of the sum cannot move a 16-bit value.
_NEGLIGIBLE = 1e-12
# ImageMagick works on 16-bit values: grey level 255 is 65535.
_STEPS = 257


def motion_kernel(radius: float, sigma: float) -> NDArray[np.float64]:
    """One-sided Gaussian weights along the line, summing to one.

    Args:
        radius: Half the line's length in pixels.
        sigma: Standard deviation in pixels.

    Returns:
        float64 (2 * ceil(radius) + 1,), less a tail too small to matter.
    """
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    return weights[weights > _NEGLIGIBLE]


def motion_blurred(
    planes: Images, angles: NDArray[np.float64], *, radius: float, sigma: float
) -> Images:
    """Blur each image along its own direction.

    Pixel (y, x) becomes the weighted mean of the pixels at ceil(i * sin(a) - 1/2) below and
    ceil(i * cos(a) - 1/2) to the right of it, i = 0, 1, ..., border pixels repeated. The mean is
    rounded to 16 bits and then cut to 8, which is why a flat region keeps its value.

    Args:
        planes: uint8 (N, H, W, C).
        angles: float64 (N,), degrees, clockwise from the direction to the right.
        radius: Half the line's length in pixels.
        sigma: Standard deviation of the weights in pixels.

    Returns:
        uint8 (N, H, W, C).
    """
    n_images, height, width, n_channels = planes.shape
    weights = motion_kernel(radius, sigma)
    steps = np.arange(len(weights))[:, None]
    radians = np.deg2rad(angles)
    down = np.ceil(steps * np.sin(radians) - 0.5).astype(np.intp)
    right = np.ceil(steps * np.cos(radians) - 0.5).astype(np.intp)
    reach = int(max(np.abs(down).max(), np.abs(right).max()))
    borders = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    padded = np.pad(planes.astype(np.float64), borders, mode="edge")
    # windows[n, y, x] is image n moved by (y, x): an index array an axis copies whole blocks.
    image, row, column, value = padded.strides
    windows = as_strided(
        padded,
        shape=(n_images, 2 * reach + 1, 2 * reach + 1, height, width * n_channels),
        strides=(image, row, column, row, value),
        writeable=False,
    )
    every = np.arange(n_images)
    total = np.full((n_images, height, width * n_channels), 0.5)
    for step, weight in enumerate(weights * _STEPS):
        block = windows[every, reach + down[step], reach + right[step]]
        block *= weight
        total += block
    levels = total.astype(np.uint16) // _STEPS
    return levels.astype(np.uint8).reshape(planes.shape)


def draw_angle(generators: Generators, batch: Batch) -> Draws:
    """One uniform number in [0, 1) an image."""
    numbers = (generator.random() for generator in generators)
    return (np.fromiter(numbers, dtype=np.float64, count=len(batch.images)),)


def motion_blur(batch: Batch) -> Images:
    """Blur along a line within 45 degrees of horizontal; constants: radius, sigma."""
    radius, sigma = batch.constants
    angles = -45 + 90 * batch.draws[0]
    return motion_blurred(batch.images, angles, radius=radius, sigma=sigma)
