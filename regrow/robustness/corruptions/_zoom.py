"""Clipped zoom as a sparse matrix."""

import math
from functools import lru_cache
from typing import Any

import numpy as np

from regrow._optional import require


@lru_cache(maxsize=64)
def zoom_operator(size: int, factor: float) -> Any:  # noqa: ANN401  (a SciPy sparse array)
    """Matrix that zooms into the middle of a square picture and keeps its size.

    Rows and columns are treated alike: the middle ``ceil(size / factor)`` of them are zoomed by
    bilinear interpolation, corner to corner, and trimmed to ``size``. The weights are read off by
    zooming unit vectors with ``scipy.ndimage.zoom``, which keeps its rounding and its borders.

    Args:
        size: Height and width in pixels.
        factor: 1 or more.

    Returns:
        CSR array, float64 (size * size, size * size), at most four entries a row.
    """
    ndimage = require("scipy.ndimage", extra="robustness")
    sparse = require("scipy.sparse", extra="robustness")
    cropped = math.ceil(size / factor)
    top = (size - cropped) // 2
    zoomed = ndimage.zoom(np.eye(cropped), (factor, 1), order=1)
    trim = (len(zoomed) - size) // 2
    line = np.zeros((size, size))
    line[:, top : top + cropped] = zoomed[trim : trim + size]
    line = sparse.csr_array(line)
    return sparse.csr_array(sparse.kron(line, line, format="csr"))
