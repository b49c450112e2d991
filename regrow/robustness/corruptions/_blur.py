"""Blurs that look the same in all directions: defocus, glass, Gaussian, zoom."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow._optional import require
from regrow.robustness.corruptions._pixels import fractions, grey_levels, single_fractions
from regrow.robustness.corruptions._types import Batch, Draws, Generators, Images
from regrow.robustness.corruptions._zoom import zoom_operator


def smoothed(values: NDArray[Any], sigma: float) -> NDArray[Any]:
    """Gaussian filter over height and width, border pixels repeated, cut at four sigmas.

    Args:
        values: Floating (N, H, W, ...).
        sigma: Standard deviation in pixels, 0 or more.

    Returns:
        Same shape and dtype. The sums are taken in SciPy's own order: in flat parts of an image
        the last bit decides on which side of a grey level the truncation falls.
    """
    ndimage = require("scipy.ndimage", extra="robustness")
    sigmas = (0.0, sigma, sigma) + (0.0,) * (values.ndim - 3)
    blurred: NDArray[Any] = ndimage.gaussian_filter(values, sigmas, mode="nearest", truncate=4.0)
    return blurred


def gaussian_blur(batch: Batch) -> Images:
    """Gaussian filter; constants: sigma."""
    (sigma,) = batch.constants
    return grey_levels(smoothed(fractions(batch.images), sigma))


@lru_cache(maxsize=16)
def disk(radius: float, alias_blur: float) -> NDArray[np.float32]:
    """Disk that sums to one, its edge softened by a small Gaussian.

    Args:
        radius: In pixels.
        alias_blur: Standard deviation of the Gaussian, in pixels; 3 x 3 up to radius 8, else 5 x 5.

    Returns:
        float32 (k, k), k odd, without the rows and columns of zeros round it, read-only.
    """
    cv2 = require("cv2", extra="robustness")
    reach = 8 if radius <= 8 else int(radius)
    width = 3 if radius <= 8 else 5
    line = np.arange(-reach, reach + 1)
    inside = (line[:, None] ** 2 + line**2 <= radius**2).astype(np.float32)
    kernel = cv2.GaussianBlur(inside / inside.sum(), ksize=(width, width), sigmaX=alias_blur)
    filled = np.flatnonzero(kernel.any(axis=0))
    kernel = np.ascontiguousarray(kernel[filled[0] : filled[-1] + 1, filled[0] : filled[-1] + 1])
    kernel.flags.writeable = False
    return kernel


def defocus_blur(batch: Batch) -> Images:
    """Filter with a softened disk, border mirrored; constants: radius, blur of its edge.

    The images are padded and laid below each other, so that one call filters them all.
    """
    cv2 = require("cv2", extra="robustness")
    radius, alias_blur = batch.constants
    kernel = disk(radius, alias_blur)
    reach = len(kernel) // 2
    borders = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    padded = np.pad(fractions(batch.images), borders, mode="reflect")
    tall = cv2.filter2D(padded.reshape(-1, padded.shape[2], 3), -1, kernel)
    filtered = tall.reshape(padded.shape)
    inner = slice(reach, reach + batch.size)
    return grey_levels(np.ascontiguousarray(filtered[:, inner, inner]))


def draw_shifts(generators: Generators, batch: Batch) -> Draws:
    """Shifts (dx, dy) in [-delta, delta) of every inner pixel, once an iteration."""
    _, delta, iterations = batch.constants
    inner = batch.size - 2 * int(delta)
    shape = (int(iterations), inner, inner, 2)
    low, high = -int(delta), int(delta)
    shifts = [generator.integers(low, high, size=shape, dtype=np.int8) for generator in generators]
    return (np.stack(shifts),)


def _sources(shifts: NDArray[np.int8], size: int, delta: int) -> NDArray[np.intp]:
    """Where each pixel's value comes from after one pass of copying.

    The pass visits pixels from the bottom right to the top left, rows outermost, and copies to
    each the value its shift points at. A pixel that points at one visited before gets what that
    one got, so the pointers are followed until they leave the visited pixels; each round doubles
    how far they have been followed.

    Args:
        shifts: int8 (N, inner, inner, 2), (dx, dy) in the order of the visit.
        size: Height and width of the image.
        delta: Largest shift.

    Returns:
        intp (N, size * size), flat positions in the image before the pass.
    """
    place = np.arange(size * size).reshape(size, size)
    inner = slice(delta + 1, size - delta + 1)
    ordered = shifts[:, ::-1, ::-1].astype(np.intp)
    pointers = np.repeat(place[None], len(shifts), axis=0)
    pointers[:, inner, inner] += ordered[..., 1] * size + ordered[..., 0]
    pointers = pointers.reshape(len(shifts), -1)
    if delta == 1:
        return pointers  # shifts are -1 or 0: they only point at pixels not visited yet
    visited = np.zeros((size, size), dtype=bool)
    visited[inner, inner] = True
    flat = place.reshape(-1)
    through = np.where((pointers > flat) & visited.reshape(-1)[pointers], pointers, -1)
    image, pixel = np.nonzero(through >= 0)
    while len(image):
        source = through[image, pixel]
        pointers[image, pixel] = pointers[image, source]
        through[image, pixel] = through[image, source]
        unfinished = through[image, pixel] >= 0
        image, pixel = image[unfinished], pixel[unfinished]
    return pointers


def glass_blur(batch: Batch) -> Images:
    """Blur, move pixels about, blur again; constants: sigma, largest shift, iterations.

    The published program means to swap two pixels but copies one over the other, because both
    sides of its swap are views of one array. The published images carry the copy, and so do these.
    The shift upwards and to the left reaches ``delta``, the other way ``delta - 1``.
    """
    sigma, delta, iterations = batch.constants
    levels = grey_levels(smoothed(fractions(batch.images), sigma))
    pixels = levels.reshape(-1, 3)
    starts = np.arange(len(batch.images))[:, None] * batch.size**2
    for iteration in range(int(iterations)):
        sources = _sources(batch.draws[0][:, iteration], batch.size, int(delta))
        pixels = np.take(pixels, sources + starts, axis=0).reshape(-1, 3)
    return grey_levels(smoothed(fractions(pixels.reshape(batch.images.shape)), sigma))


def zoom_blur(batch: Batch) -> Images:
    """Mean of the image and of its zooms; constants: the factors.

    The first factor is 1, so the image counts twice. Sums are taken in float32, in the order of
    the factors.
    """
    factors = batch.constants
    n_images, size = len(batch.images), batch.size
    # Pixels first and images last: one sparse matrix then zooms the whole batch.
    columns = single_fractions(batch.images).transpose(1, 2, 3, 0).reshape(size * size, -1)
    wide = columns.astype(np.float64)
    total = np.zeros_like(columns)
    for factor in factors:
        total += (zoom_operator(size, factor) @ wide).astype(np.float32)
    total += columns
    total /= np.float32(len(factors) + 1)
    levels = grey_levels(total).reshape(size, size, 3, n_images)
    return np.ascontiguousarray(levels.transpose(3, 0, 1, 2))
