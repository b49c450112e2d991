"""Spatter: drops of water or mud on the lens."""

import numpy as np
from numpy.typing import NDArray

from regrow._optional import require
from regrow.robustness.corruptions._blur import smoothed
from regrow.robustness.corruptions._pixels import grey_levels, single_fractions
from regrow.robustness.corruptions._types import Batch, Draws, Generators, Images

_WATER = np.array([175, 238, 238], dtype=np.float64) / 255
_MUD = np.array([63, 42, 20], dtype=np.float64) / 255
_EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])


def draw_liquid(generators: Generators, batch: Batch) -> Draws:
    """Standard normal numbers, one a pixel."""
    shape = (batch.size, batch.size)
    return (np.stack([generator.standard_normal(shape) for generator in generators]),)


def _drops(liquid: Images) -> NDArray[np.float32]:
    """Thickness of the water on one image, 0 to 1, drawn from the edges of the liquid.

    Args:
        liquid: uint8 (H, W), zero where there is none.

    Returns:
        float32 (H, W), largest value 1; all 0 where no drop is left. There the published program
        divides 0 by 0 and turns the image to whatever its machine makes of a NaN.
    """
    cv2 = require("cv2", extra="robustness")
    away = 255 - cv2.Canny(liquid, 50, 150)
    distance = np.minimum(cv2.distanceTransform(away, cv2.DIST_L2, 5), np.float32(20))
    distance = cv2.blur(distance, (3, 3)).astype(np.uint8)
    embossed = cv2.filter2D(cv2.equalizeHist(distance), cv2.CV_8U, _EMBOSS)
    relief = cv2.blur(embossed, (3, 3)).astype(np.float32)
    thickness: NDArray[np.float32] = liquid * relief
    largest = thickness.max()
    return thickness / largest if largest > 0 else thickness


def spatter(batch: Batch) -> Images:
    """Add pale turquoise water, or cover with brown mud, in float32.

    Constants: mean and deviation of the liquid, sigma of its blur, the level below which there is
    none, thickness of water or sigma of the mud's edge, 0 for water and 1 for mud.
    """
    mean, deviation, sigma, threshold, last, mud = batch.constants
    values = single_fractions(batch.images)
    liquid = smoothed(mean + deviation * batch.draws[0], sigma)
    if mud:
        cover = smoothed((liquid > threshold).astype(np.float32), last)
        cover[cover < 0.8] = 0
        layer = _MUD.astype(np.float32) * cover[..., None]
        values *= 1 - cover[..., None]
    else:
        liquid[liquid < threshold] = 0
        water = np.stack([_drops(plane) for plane in (liquid * 255).astype(np.uint8)])
        water *= np.float32(last)
        layer = _WATER.astype(np.float32) * water[..., None]
    values += layer
    return grey_levels(values)
