"""Corruptions that are a round trip through Pillow: JPEG and pixelation."""

from io import BytesIO

import numpy as np

from regrow._optional import require
from regrow.robustness.corruptions._types import Batch, Images


def jpeg_compression(batch: Batch) -> Images:
    """Save as JPEG and read back; constants: quality.

    Pillow's defaults otherwise: chroma at half the resolution, the standard Huffman tables.
    """
    pillow = require("PIL.Image", extra="robustness")
    quality = int(batch.constants[0])
    decoded = np.empty_like(batch.images)
    for image, place in zip(batch.images, decoded, strict=True):
        stream = BytesIO()
        pillow.fromarray(image).save(stream, "JPEG", quality=quality)
        place[...] = np.asarray(pillow.open(stream, formats=("JPEG",)))
    return decoded


def pixelate(batch: Batch) -> Images:
    """Shrink and enlarge with box filters; constants: scale, the side is cut to whole pixels."""
    pillow = require("PIL.Image", extra="robustness")
    box = pillow.Resampling.BOX
    full = (batch.size, batch.size)
    side = int(batch.size * batch.constants[0])
    result = np.empty_like(batch.images)
    for image, place in zip(batch.images, result, strict=True):
        small = pillow.fromarray(image).resize((side, side), box)
        place[...] = np.asarray(small.resize(full, box))
    return result
