"""The table of constants against numbers that were added up from the published programs."""

import pytest

from regrow.robustness.corruptions import ALL
from regrow.robustness.corruptions._constants import CONSTANTS, SIZES

# All constants of a corruption added up, at 32, 64 and 224 pixels.
SUMS = {
    "gaussian_noise": (0.37, 0.57, 1.02),
    "shot_noise": (975, 445, 105),
    "impulse_noise": (0.18, 0.3, 0.62),
    "defocus_blur": (5.5, 9.41, 33.1),
    "glass_blur": (13.35, 16.8, 27.2),
    "motion_blur": (44, 62, 118),
    "snow": (99.75, 98.9, 120.45),
    "frost": (6.25, 6.35, 6.9),
    "fog": (16.2, 17.85, 20.1),
    "brightness": (0.8, 1.5, 1.5),
    "contrast": (2.1, 1.05, 1.05),
    "elastic_transform": (30.4, 70.4, 1320.04),
    "pixelate": (4.1, 3.5, 2.05),
    "jpeg_compression": (293, 238, 75),
    "speckle_noise": (0.64, 1.25, 1.75),
    "gaussian_blur": (3.5, 5, 16),
    "spatter": (15.78, 16.06, 25.92),
    "saturate": (6.7, 37.7, 27.7),
}


def test_every_name_has_five_different_rows_at_every_size():
    assert set(CONSTANTS) == set(ALL)
    for table in CONSTANTS.values():
        assert set(table) == set(SIZES)
        assert all(len(set(rows)) == 5 for rows in table.values())


@pytest.mark.parametrize("name", SUMS)
def test_sums(name):
    sums = tuple(sum(sum(row) for row in CONSTANTS[name][size]) for size in (32, 64, 224))
    assert sums == pytest.approx(SUMS[name], rel=1e-12)


def test_zoom_ranges_are_one_factor_longer_than_they_look():
    rows = CONSTANTS["zoom_blur"]
    assert [len(row) for row in rows[32]] == [7, 12, 16, 21, 26]
    assert rows[64] == rows[32]
    assert [len(row) for row in rows[224]] == [12, 16, 11, 13, 11]
    assert rows[32][0] == pytest.approx((1, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06))
    assert [row[-1] for row in rows[224]] == pytest.approx([1.11, 1.15, 1.2, 1.24, 1.3])
