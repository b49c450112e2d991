"""Constants of the nineteen corruptions at three image sizes.

Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations (ICLR 2019), and the programs published with it for CIFAR-10-C (32 pixels),
Tiny-ImageNet-C (64) and ImageNet-C (224). CIFAR-100-C uses those of 32 pixels.
"""

from typing import Final

import numpy as np

SIZES: Final = (32, 64, 224)
N_SEVERITIES: Final = 5

Row = tuple[float, ...]
Rows = tuple[Row, Row, Row, Row, Row]


def _scalars(*values: float) -> Rows:
    """Rows of one constant each."""
    first, second, third, fourth, fifth = values
    return ((first,), (second,), (third,), (fourth,), (fifth,))


def _factors(*ranges: tuple[float, float]) -> Rows:
    """Zoom factors 1, 1 + step, ... of (stop, step).

    The stop is excluded in exact arithmetic only: in float64 ``arange(1, 1.06, 0.01)`` has seven
    items and includes 1.06. The published images carry the extra factor, so the ranges are made by
    the same call rather than written out.
    """
    first, second, third, fourth, fifth = (
        tuple(float(factor) for factor in np.arange(1, stop, step)) for stop, step in ranges
    )
    return (first, second, third, fourth, fifth)


def _of_size(rows: Rows, size: int) -> Rows:
    """Rows given as multiples of an image size."""
    first, second, third, fourth, fifth = (tuple(size * value for value in row) for row in rows)
    return (first, second, third, fourth, fifth)


_ZOOM_SMALL = _factors((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))
_BRIGHTNESS_LARGE = _scalars(0.1, 0.2, 0.3, 0.4, 0.5)
_CONTRAST_LARGE = _scalars(0.4, 0.3, 0.2, 0.1, 0.05)
_JPEG_TINY = _scalars(65, 58, 50, 40, 25)

# name -> size -> five rows. What the columns mean is written at each corruption's own function.
CONSTANTS: Final[dict[str, dict[int, Rows]]] = {
    "gaussian_noise": {
        32: _scalars(0.04, 0.06, 0.08, 0.09, 0.10),
        64: _scalars(0.04, 0.08, 0.12, 0.15, 0.18),
        224: _scalars(0.08, 0.12, 0.18, 0.26, 0.38),
    },
    "shot_noise": {
        32: _scalars(500, 250, 100, 75, 50),
        64: _scalars(250, 100, 50, 30, 15),
        224: _scalars(60, 25, 12, 5, 3),
    },
    "impulse_noise": {
        32: _scalars(0.01, 0.02, 0.03, 0.05, 0.07),
        64: _scalars(0.01, 0.02, 0.05, 0.08, 0.14),
        224: _scalars(0.03, 0.06, 0.09, 0.17, 0.27),
    },
    "defocus_blur": {
        32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    },
    "glass_blur": {
        32: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        64: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        224: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    },
    "motion_blur": {
        32: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        64: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        224: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    },
    "zoom_blur": {
        32: _ZOOM_SMALL,
        64: _ZOOM_SMALL,
        224: _factors((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    },
    "snow": {
        32: (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        64: (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
        224: (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    },
    "frost": {
        32: ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        64: ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        224: ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    },
    "fog": {
        32: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        64: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        224: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    },
    "brightness": {
        32: _scalars(0.05, 0.1, 0.15, 0.2, 0.3),
        64: _BRIGHTNESS_LARGE,
        224: _BRIGHTNESS_LARGE,
    },
    "contrast": {
        32: _scalars(0.75, 0.5, 0.4, 0.3, 0.15),
        64: _CONTRAST_LARGE,
        224: _CONTRAST_LARGE,
    },
    "elastic_transform": {
        32: _of_size(
            (
                (0, 0, 0.08),
                (0.05, 0.2, 0.07),
                (0.08, 0.06, 0.06),
                (0.1, 0.04, 0.05),
                (0.1, 0.03, 0.03),
            ),
            32,
        ),
        64: _of_size(
            (
                (0, 0, 0.08),
                (0.05, 0.3, 0.06),
                (0.1, 0.08, 0.06),
                (0.1, 0.03, 0.03),
                (0.16, 0.03, 0.02),
            ),
            64,
        ),
        # 244 and not 224: a slip of the published program that ImageNet-C carries.
        224: _of_size(
            (
                (2, 0.7, 0.1),
                (2, 0.08, 0.2),
                (0.05, 0.01, 0.02),
                (0.07, 0.01, 0.02),
                (0.12, 0.01, 0.02),
            ),
            244,
        ),
    },
    "pixelate": {
        32: _scalars(0.95, 0.9, 0.85, 0.75, 0.65),
        64: _scalars(0.9, 0.8, 0.7, 0.6, 0.5),
        224: _scalars(0.6, 0.5, 0.4, 0.3, 0.25),
    },
    "jpeg_compression": {
        32: _scalars(80, 65, 58, 50, 40),
        64: _JPEG_TINY,
        224: _scalars(25, 18, 15, 10, 7),
    },
    "speckle_noise": {
        32: _scalars(0.06, 0.1, 0.12, 0.16, 0.2),
        64: _scalars(0.15, 0.2, 0.25, 0.3, 0.35),
        224: _scalars(0.15, 0.2, 0.35, 0.45, 0.6),
    },
    "gaussian_blur": {
        32: _scalars(0.4, 0.6, 0.7, 0.8, 1),
        64: _scalars(0.5, 0.75, 1, 1.25, 1.5),
        224: _scalars(1, 2, 3, 4, 6),
    },
    "spatter": {
        32: (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        64: (
            (0.62, 0.1, 0.7, 0.7, 0.6, 0),
            (0.65, 0.1, 0.8, 0.7, 0.6, 0),
            (0.65, 0.3, 1, 0.69, 0.6, 0),
            (0.65, 0.1, 0.7, 0.68, 0.6, 1),
            (0.65, 0.1, 0.5, 0.67, 0.6, 1),
        ),
        224: (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
    },
    "saturate": {
        32: ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        64: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
        224: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    },
}
