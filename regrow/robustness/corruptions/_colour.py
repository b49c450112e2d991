"""Brightness, contrast and saturation."""

import numpy as np
from numpy.typing import NDArray

from regrow.robustness.corruptions._pixels import fractions, grey_levels
from regrow.robustness.corruptions._types import Batch, Images

Plane = NDArray[np.float64]

# Whether red, green and blue are the largest (0), smallest (1) or middle (2) channel, in each sixth
# of the hue circle from red on.
_ROLES = np.array([[0, 2, 1, 1, 2, 0], [2, 0, 0, 2, 1, 1], [1, 1, 2, 0, 0, 2]], dtype=np.uint8)


def to_hsv(images: Images) -> tuple[Plane, Plane, Plane]:
    """Hue, saturation and value.

    Args:
        images: uint8 (..., 3), RGB.

    Returns:
        Three float64 arrays (...), hue in [0, 1), saturation and value in [0, 1]; grey has hue and
        saturation 0. Where two channels are largest, blue wins over green, green over red.

    Source: Smith, Color Gamut Transform Pairs (SIGGRAPH 1978).
    """
    red, green, blue = np.moveaxis(images, -1, 0) / 255.0
    value = np.maximum(np.maximum(red, green), blue)
    delta = value - np.minimum(np.minimum(red, green), blue)
    coloured = delta > 0
    divisor = np.where(coloured, delta, 1)
    is_blue = blue == value
    is_green = (green == value) & ~is_blue
    ahead = np.where(is_blue, red - green, np.where(is_green, blue - red, green - blue))
    hue = (ahead / divisor + (4.0 * is_blue + 2.0 * is_green)) / 6
    hue += hue < 0
    hue *= coloured
    saturation = delta / np.where(coloured, value, 1)
    return hue, saturation, value


def from_hsv(hue: Plane, saturation: Plane, value: Plane) -> Images:
    """Grey levels of hue, saturation and value, truncated.

    Args:
        hue: float64 (...), in [0, 1].
        saturation: float64 (...), in [0, 1].
        value: float64 (...), in [0, 1].

    Returns:
        uint8 (..., 3), RGB.
    """
    turned = hue * 6
    sixth = turned.astype(np.uint8)
    rest = turned - sixth
    # Between odd and even corners of the circle the middle channel falls, else it rises.
    fall = np.where(sixth & 1, rest, 1 - rest)
    planes = np.stack([value, value * (1 - saturation), value * (1 - fall * saturation)])
    largest, smallest, middle = grey_levels(planes)
    levels = np.empty((*hue.shape, 3), dtype=np.uint8)
    for channel, roles in enumerate(_ROLES):
        role = np.take(roles, sixth % 6)
        levels[..., channel] = np.where(role == 0, largest, np.where(role == 1, smallest, middle))
    return levels


def brightness(batch: Batch) -> Images:
    """Add to the value of HSV; constants: what is added."""
    (added,) = batch.constants
    hue, saturation, value = to_hsv(batch.images)
    return from_hsv(hue, saturation, np.clip(value + added, 0, 1))


def saturate(batch: Batch) -> Images:
    """Scale and shift the saturation of HSV; constants: factor, shift."""
    factor, shift = batch.constants
    hue, saturation, value = to_hsv(batch.images)
    return from_hsv(hue, np.clip(saturation * factor + shift, 0, 1), value)


def contrast(batch: Batch) -> Images:
    """Draw values towards their channel's mean; constants: share of the distance left."""
    (share,) = batch.constants
    values = fractions(batch.images)
    means = values.mean(axis=(1, 2), keepdims=True)
    values -= means
    values *= share
    values += means
    return grey_levels(values)
