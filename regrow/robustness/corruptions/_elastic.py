"""Elastic transform: a random affine map, then a smooth random displacement."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from regrow._optional import require
from regrow.robustness.corruptions._pixels import grey_levels, single_fractions
from regrow.robustness.corruptions._types import Batch, Draws, Generators, Images


def draw_elastic(generators: Generators, batch: Batch) -> Draws:
    """Uniform numbers in [0, 1): six for the affine map, then one a pixel for dx and for dy."""
    shape = (2, batch.size, batch.size)
    pairs = [(generator.random((3, 2)), generator.random(shape)) for generator in generators]
    corners, fields = zip(*pairs, strict=True)
    return np.stack(corners), np.stack(fields)


def _affine(images: NDArray[np.float32], uniforms: NDArray[np.float64], reach: float) -> None:
    """Move three corners of a square by up to ``reach`` pixels; images are overwritten."""
    cv2 = require("cv2", extra="robustness")
    size = images.shape[1]
    middle, side = np.float32(size // 2), np.float32(size // 3)
    low, high = middle - side, middle + side
    corners = np.array([[high, high], [high, low], [low, low]], dtype=np.float32)
    moved = corners + (-reach + (reach + reach) * uniforms).astype(np.float32)
    for image, targets in zip(images, moved, strict=True):
        matrix = cv2.getAffineTransform(corners, targets)
        image[...] = cv2.warpAffine(image, matrix, (size, size), borderMode=cv2.BORDER_REFLECT_101)


@lru_cache(maxsize=16)
def _smoothing(size: int, sigma: float) -> NDArray[np.float64]:
    """Matrix (size, size) of a Gaussian filter cut at three sigmas, border mirrored, read-only.

    A matrix because the widest filter spans four times the image.
    """
    ndimage = require("scipy.ndimage", extra="robustness")
    unit = np.eye(size)
    matrix: NDArray[np.float64] = (
        ndimage.gaussian_filter1d(unit, sigma, axis=0, mode="reflect", truncate=3)
        if sigma > 0
        else unit
    )
    matrix.flags.writeable = False
    return matrix


def _mirrored(index: NDArray[np.int32], size: int) -> NDArray[np.int32]:
    """Positions mirrored at the borders into [0, size), the border pixel repeated."""
    index = index % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)


def sampled(
    images: NDArray[np.float32], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Bilinear samples, border mirrored.

    One sparse matrix with four entries a row samples all images and channels.

    Args:
        images: float32 (N, size, size, C).
        rows: float64 (N, size, size), vertical positions in pixels.
        columns: The same for horizontal positions.

    Returns:
        float32 (N, size, size, C); sums are taken in float64.
    """
    sparse = require("scipy.sparse", extra="robustness")
    n_images, size = images.shape[:2]
    top, left = np.floor(rows), np.floor(columns)
    down, right = rows - top, columns - left
    up, back = 1 - down, 1 - right
    weights = np.stack([up * back, up * right, down * back, down * right], axis=-1)
    row, column = top.astype(np.int32), left.astype(np.int32)
    start = np.arange(n_images, dtype=np.int32).reshape(-1, 1, 1) * size
    upper = (start + _mirrored(row, size)) * size
    lower = (start + _mirrored(row + 1, size)) * size
    before, after = _mirrored(column, size), _mirrored(column + 1, size)
    corners = np.stack([upper + before, upper + after, lower + before, lower + after], axis=-1)
    pixels = images.reshape(rows.size, -1).astype(np.float64)
    ends = np.arange(0, weights.size + 1, 4, dtype=np.int32)
    entries = (weights.reshape(-1), corners.reshape(-1), ends)
    operator = sparse.csr_array(entries, shape=(rows.size, rows.size))
    samples: NDArray[np.float64] = operator @ pixels
    return samples.astype(np.float32).reshape(images.shape)


def elastic_transform(batch: Batch) -> Images:
    """Affine map, then displacement; constants: strength, sigma and affine reach, in pixels.

    The displacement fields are uniform numbers in [-1, 1) smoothed by a Gaussian.
    """
    strength, sigma, reach = batch.constants
    size = batch.size
    values = single_fractions(batch.images)
    _affine(values, batch.draws[0], reach)
    if strength == 0:
        return grey_levels(values)
    smoothing = _smoothing(size, sigma)
    fields = smoothing @ (-1 + 2 * batch.draws[1]) @ smoothing.T
    shifts = (fields * strength).astype(np.float32)
    line = np.arange(size)
    columns = line + shifts[:, 0].astype(np.float64)
    rows = line[:, None] + shifts[:, 1].astype(np.float64)
    return grey_levels(sampled(values, rows, columns))
