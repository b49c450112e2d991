"""The batched transforms against the image-by-image reference, with the same draws."""

import numpy as np
import pytest
from robustness.corruptions.corruption_cases import (
    drawn_batch,
    ramp_image,
    sample_images,
    with_draws,
    write_textures,
)
from robustness.corruptions.corruption_reference import corrupted_one_by_one, motion

from regrow.robustness.corruptions import ALL
from regrow.robustness.corruptions._motion import motion_blurred
from regrow.robustness.corruptions._registry import CORRUPTIONS


@pytest.fixture(scope="module")
def frost_dir(tmp_path_factory):
    return write_textures(tmp_path_factory.mktemp("frost"))


def assert_equal_to_reference(name, batch):
    ours = CORRUPTIONS[name].apply(batch)
    reference = corrupted_one_by_one(name, batch)
    assert ours.dtype == np.uint8
    assert ours.shape == batch.images.shape
    if name == "elastic_transform":
        # Smoothed by a matrix product here and by sums along lines there: the last bit of a
        # displacement may differ, and with it, once in a while, a value by one level.
        difference = np.abs(ours.astype(int) - reference.astype(int))
        assert difference.max() <= 1
        assert np.mean(difference > 0) < 1e-3
    else:
        np.testing.assert_array_equal(ours, reference)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("severity", range(1, 6))
def test_32_pixels(name, severity, frost_dir):
    images = np.concatenate([sample_images(32), ramp_image()[None]])
    batch = drawn_batch(name, severity, images, frost_dir=frost_dir)
    assert_equal_to_reference(name, batch)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("severity", range(1, 6))
def test_64_pixels(name, severity, frost_dir):
    images = sample_images(64, n_images=3)
    batch = drawn_batch(name, severity, images, frost_dir=frost_dir)
    assert_equal_to_reference(name, batch)


@pytest.mark.parametrize("name", ALL)
def test_224_pixels(name, frost_dir):
    for severity in range(1, 6):
        images = sample_images(224, n_images=1, seed=severity)
        batch = drawn_batch(name, severity, images, frost_dir=frost_dir)
        assert_equal_to_reference(name, batch)


@pytest.mark.parametrize("name", ALL)
def test_transform_leaves_its_inputs_alone(name, frost_dir):
    batch = drawn_batch(name, 3, sample_images(32), frost_dir=frost_dir)
    images = batch.images.copy()
    draws = [array.copy() for array in batch.draws]
    CORRUPTIONS[name].apply(batch)
    np.testing.assert_array_equal(batch.images, images)
    for before, after in zip(draws, batch.draws, strict=True):
        np.testing.assert_array_equal(before, after)


def test_glass_blur_copies_and_does_not_swap():
    batch = drawn_batch("glass_blur", 1, sample_images(32)[-1:])
    copied = batch.images[0].copy()
    swapped = copied.copy()
    shifts = iter(batch.draws[0][0, 0].reshape(-1, 2).tolist())
    for h in range(31, 1, -1):
        for w in range(31, 1, -1):
            dx, dy = next(shifts)
            here, there = (h, w), (h + dy, w + dx)
            copied[here] = copied[there]
            swapped[here], swapped[there] = swapped[there].copy(), swapped[here].copy()
    ours = CORRUPTIONS["glass_blur"].apply(batch)[0]  # at sigma 0.05 the blur does nothing
    np.testing.assert_array_equal(ours, copied)
    assert np.mean(ours != swapped) > 0.1


@pytest.mark.parametrize("angle", [-135.0, -90.0, -45.0, -20.0, 0.0, 33.3, 45.0])
def test_motion_blur_keeps_flat_regions_and_stays_within_a_level_of_the_floor(angle):
    images = sample_images(32)
    blurred = motion_blurred(images, np.full(len(images), angle), radius=9, sigma=2.5)
    np.testing.assert_array_equal(blurred[2:5], images[2:5])
    floors = np.stack([motion(image, 9, 2.5, angle, finish=np.floor) for image in images])
    difference = blurred[5:].astype(int) - floors[5:]  # noise: no flat regions
    assert difference.min() >= 0
    assert difference.max() <= 1
    assert 0 < np.mean(difference) < 0.006  # one in 514 expected


def test_spatter_without_drops_leaves_the_image():
    batch = drawn_batch("spatter", 1, sample_images(32))
    dry = with_draws(batch, (np.zeros_like(batch.draws[0]),))
    np.testing.assert_array_equal(CORRUPTIONS["spatter"].apply(dry), batch.images)
