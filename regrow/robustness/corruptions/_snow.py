"""Snow: flakes blown across a whitened picture."""

import numpy as np
from numpy.typing import NDArray

from regrow._optional import require
from regrow.robustness.corruptions._motion import motion_blurred
from regrow.robustness.corruptions._pixels import grey_levels, single_fractions
from regrow.robustness.corruptions._types import Batch, Draws, Generators, Images
from regrow.robustness.corruptions._zoom import zoom_operator


def draw_snow(generators: Generators, batch: Batch) -> Draws:
    """Standard normal numbers, one a pixel, then one uniform number for the direction."""
    shape = (batch.size, batch.size)
    pairs = [(generator.standard_normal(shape), generator.random()) for generator in generators]
    layers, directions = zip(*pairs, strict=True)
    return np.stack(layers), np.array(directions)


def _whitened(images: Images, mix: float) -> NDArray[np.float32]:
    """Mix each picture with a bleached copy of itself, in float32."""
    cv2 = require("cv2", extra="robustness")
    clean = single_fractions(images)
    tall = clean.reshape(-1, clean.shape[2], 3)
    grey = cv2.cvtColor(tall, cv2.COLOR_RGB2GRAY).reshape(*clean.shape[:3], 1)
    bleached: NDArray[np.float32] = np.maximum(clean, grey * np.float32(1.5) + np.float32(0.5))
    return np.float32(mix) * clean + np.float32(1 - mix) * bleached


def snow(batch: Batch) -> Images:
    """Whiten, then add a layer of blurred flakes and the same layer upside down.

    Constants: mean and deviation of the layer, its zoom, the level below which there is no flake,
    radius and sigma of the motion blur, share of the picture that is not bleached.
    """
    mean, deviation, zoom, threshold, radius, sigma, mix = batch.constants
    size = batch.size
    layer = (mean + deviation * batch.draws[0]).reshape(len(batch.images), -1).T
    layer = zoom_operator(size, zoom) @ layer
    layer[layer < threshold] = 0
    flakes = grey_levels(layer).T.reshape(len(batch.images), size, size, 1)
    angles = -135 + 90 * batch.draws[1]
    flakes = motion_blurred(np.ascontiguousarray(flakes), angles, radius=radius, sigma=sigma)
    light = flakes / 255.0
    values = _whitened(batch.images, mix) + light
    values += light[:, ::-1, ::-1]
    return grey_levels(values)
