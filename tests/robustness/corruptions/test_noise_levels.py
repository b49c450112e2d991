"""Strength and shape of the random corruptions, measured on flat grey images."""

import numpy as np
import pytest

from regrow.robustness.corruptions import corrupt_seeded
from regrow.robustness.corruptions._constants import CONSTANTS

N_IMAGES = 60


def noisy(name, severity, *, level=128):
    images = np.full((N_IMAGES, 32, 32, 3), level, dtype=np.uint8)
    result = corrupt_seeded(images, name, severity, seeds=np.arange(N_IMAGES))
    return result.astype(float)


@pytest.mark.parametrize("severity", range(1, 6))
def test_gaussian_noise_has_the_published_deviation(severity):
    (sigma,) = CONSTANTS["gaussian_noise"][32][severity - 1]
    values = noisy("gaussian_noise", severity)
    # Truncation takes half a level and adds the variance of a uniform number.
    assert values.mean() == pytest.approx(127.5, abs=0.3)
    assert values.std() == pytest.approx(np.sqrt((255 * sigma) ** 2 + 1 / 12), rel=0.01)


@pytest.mark.parametrize("severity", range(1, 6))
def test_speckle_noise_grows_with_the_value(severity):
    (sigma,) = CONSTANTS["speckle_noise"][32][severity - 1]
    for level in (40, 100):
        values = noisy("speckle_noise", severity, level=level)
        assert values.std() == pytest.approx(np.sqrt((level * sigma) ** 2 + 1 / 12), rel=0.02)
    assert (noisy("speckle_noise", severity, level=0) == 0).all()


@pytest.mark.parametrize("severity", range(1, 6))
def test_shot_noise_is_poisson(severity):
    (photons,) = CONSTANTS["shot_noise"][32][severity - 1]
    values = noisy("shot_noise", severity, level=100)
    assert values.std() == pytest.approx(255 * np.sqrt(100 / 255 / photons), rel=0.03)
    assert len(np.unique(values)) < photons + 2
    assert (noisy("shot_noise", severity, level=0) == 0).all()


@pytest.mark.parametrize("severity", range(1, 6))
def test_impulse_noise_hits_the_published_share_half_of_it_white(severity):
    (amount,) = CONSTANTS["impulse_noise"][32][severity - 1]
    values = noisy("impulse_noise", severity)
    assert set(np.unique(values)) == {0, 128, 255}
    deviation = np.sqrt(amount / 2 / values.size)
    assert np.mean(values == 0) == pytest.approx(amount / 2, abs=4 * deviation)
    assert np.mean(values == 255) == pytest.approx(amount / 2, abs=4 * deviation)
    # Each channel is hit on its own.
    hit = values != 128
    assert np.mean(hit.all(axis=-1)) < 2 * amount**3 + 1e-4
    together = np.mean(hit[..., 0] & hit[..., 1])
    assert together == pytest.approx(amount**2, abs=4 * amount / np.sqrt(hit[..., 0].size))


def test_directions_of_motion_cover_their_range():
    # One white pixel: the blur draws its line to the left of it, up to 45 degrees up or down.
    images = np.zeros((400, 32, 32, 3), dtype=np.uint8)
    images[:, 16, 24] = 255
    lines = corrupt_seeded(images, "motion_blur", 3, seeds=np.arange(400))[..., 0] > 0
    columns = lines.any(axis=1)
    assert not columns[:, 25:].any()
    rows = np.array([np.flatnonzero(line[:, 20])[0] if line[:, 20].any() else -1 for line in lines])
    assert set(rows) == set(range(12, 21))


def test_severities_get_worse():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(20, 32, 32, 3), dtype=np.uint8)
    for name in ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "fog"):
        errors = []
        for severity in range(1, 6):
            result = corrupt_seeded(images, name, severity, seeds=np.arange(20))
            errors.append(np.abs(result.astype(int) - images).mean())
        assert errors == sorted(errors)
        assert errors[0] > 0
