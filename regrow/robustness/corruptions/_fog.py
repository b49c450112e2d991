"""Fog: a fractal cloud added to the picture."""

import numpy as np
from numpy.typing import NDArray

from regrow.robustness.corruptions._pixels import fractions, grey_levels
from regrow.robustness.corruptions._types import Batch, Draws, Generators, Images


def _grid(size: int) -> int:
    """Width of the cloud: the next power of two, of which the top left corner is used."""
    return 1 << (size - 1).bit_length()


def draw_cloud(generators: Generators, batch: Batch) -> Draws:
    """Uniform numbers in [0, 1), one a point of the cloud but the first, in the order of use."""
    n_points = _grid(batch.size) ** 2 - 1
    return (np.stack([generator.random(n_points) for generator in generators]),)


def plasma(uniforms: NDArray[np.float64], width: int, decay: float) -> NDArray[np.float64]:
    """Clouds by the diamond-square algorithm, on a grid whose edges meet.

    The noise at a level is ``w * U(-w, w)``: quadratic in the level's amplitude w, which starts at
    100 and is divided by ``decay`` from level to level.

    Args:
        uniforms: float64 (N, width**2 - 1) in [0, 1): for each level those of the squares, of the
            diamonds above them and of the diamonds to their left, each row by row.
        width: Power of two.
        decay: Above 1.

    Returns:
        float64 (N, width, width), each cloud from 0 to 1.

    Source: Fournier, Fussell and Carpenter, Computer Rendering of Stochastic Models (CACM 1982).
    """
    n_images = len(uniforms)
    clouds = np.zeros((n_images, width, width))
    step, amplitude, used = width, 100.0, 0

    def wobbled(total: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal used
        n_points = total.shape[1] * total.shape[2]
        noise = uniforms[:, used : used + n_points].reshape(total.shape)
        used += n_points
        return total / 4 + amplitude * (-amplitude + (amplitude + amplitude) * noise)

    while step >= 2:
        half = step // 2
        corners = clouds[:, ::step, ::step]
        total = corners + np.roll(corners, -1, axis=1)
        total = total + np.roll(total, -1, axis=2)
        centres = wobbled(total)
        clouds[:, half::step, half::step] = centres
        above = centres + np.roll(centres, 1, axis=1)
        above += corners + np.roll(corners, -1, axis=2)
        clouds[:, ::step, half::step] = wobbled(above)
        left = centres + np.roll(centres, 1, axis=2)
        left += corners + np.roll(corners, -1, axis=1)
        clouds[:, half::step, ::step] = wobbled(left)
        step = half
        amplitude /= decay
    clouds -= clouds.min(axis=(1, 2), keepdims=True)
    clouds /= clouds.max(axis=(1, 2), keepdims=True)
    return clouds


def fog(batch: Batch) -> Images:
    """Add a cloud and scale back to the picture's own maximum; constants: amount, decay."""
    amount, decay = batch.constants
    size = batch.size
    clouds = plasma(batch.draws[0], _grid(size), decay)[:, :size, :size, None]
    brightest = fractions(batch.images.max(axis=(1, 2, 3), keepdims=True))
    values = fractions(batch.images)
    values += amount * clouds
    values *= brightest
    values /= brightest + amount
    return grey_levels(values)
