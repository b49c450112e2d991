"""The handwritten digits that come with scikit-learn: a data set that needs no network."""

import numpy as np

from regrow._optional import require
from regrow.data._split import Source, array_split
from regrow.data._subset import stratified

N_TEST = 500
_FACTOR = 4


def digits() -> Source:
    """The 1,797 handwritten 8x8 digits, enlarged to 32x32: 1,297 for training, 500 for test.

    The split is stratified and fixed. Sixteenths of ink become 0..255; the enlargement is cubic
    convolution (Keys 1981, a = -1/2) in integers, so that it is the same on every machine.

    Returns:
        The source; white strokes on black, grey.

    Raises:
        BackendUnavailableError: scikit-learn is not installed.
    """
    bunch = require("sklearn.datasets", extra="robustness").load_digits()
    images = enlarge(bunch.images.astype(np.int64))
    labels = bunch.target.astype(np.int64)
    in_test = np.zeros(len(labels), dtype=bool)
    in_test[stratified(labels, N_TEST, name="digits split")] = True
    return Source(
        train=array_split(images[~in_test], labels[~in_test]),
        test=array_split(images[in_test], labels[in_test]),
        classes=tuple(str(name) for name in bunch.target_names),
        flip=False,
    )


def enlarge(images: np.ndarray) -> np.ndarray:
    """Enlarge fourfold by cubic convolution, in exact integer arithmetic.

    Args:
        images: int64 (N, h, w), values 0..16.

    Returns:
        uint8 (N, 4h, 4w), values 0..255, rounded half up.
    """
    rows, columns = _weights(images.shape[1]), _weights(images.shape[2])
    scaled = rows @ images @ columns.T  # in units of 1/16 of ink by 1024 by 1024
    unit = 16 * 1024 * 1024
    rounded: np.ndarray = (scaled * 255 + unit // 2) // unit
    return rounded.clip(0, 255).astype(np.uint8)


def _weights(size: int) -> np.ndarray:
    """Cubic convolution from ``size`` pixels to four times as many, as multiples of 1/1024.

    Pixel centres lie at half integers in both grids, so the distances are odd eighths and the
    weights whole multiples of 1/1024. Past the border the border pixel is repeated.
    """
    weights = np.zeros((_FACTOR * size, size), dtype=np.int64)
    for out in range(_FACTOR * size):
        centre = 2 * out + 1 - _FACTOR  # position on the old grid, in eighths
        nearest = centre // 8
        for pixel in range(nearest - 1, nearest + 3):
            d = abs(centre - 8 * pixel)
            if d <= 8:  # 1.5 t^3 - 2.5 t^2 + 1 with t = d/8
                weight = 3 * d**3 - 40 * d**2 + 1024
            else:  # -0.5 t^3 + 2.5 t^2 - 4 t + 2
                weight = -(d**3) + 40 * d**2 - 512 * d + 2048
            weights[out, min(max(pixel, 0), size - 1)] += weight
    return weights
