import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regrow.study import Images, crop_and_flip


@given(
    n=st.integers(1, 5),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    padding=st.integers(0, 3),
    flip=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_image_is_shifted_and_mirrored_as_its_draws_say(n, size, padding, flip, seed):
    height, width = size
    random = np.random.default_rng(seed)
    pixels = random.integers(1, 256, (n, height, width, 3)).astype(np.uint8)
    result = crop_and_flip(
        torch.from_numpy(pixels),
        padding=padding,
        flip=flip,
        generator=torch.Generator().manual_seed(seed),
    ).numpy()
    generator = torch.Generator().manual_seed(seed)
    shift = torch.zeros(2, n, dtype=torch.int64)
    if padding:
        shift = torch.randint(2 * padding + 1, (2, n, 1), generator=generator)[..., 0]
    mirrored = torch.rand(n, generator=generator) < 0.5 if flip else torch.zeros(n, dtype=bool)
    for i in range(n):
        for row in range(height):
            for column in range(width):
                y = row + int(shift[0, i]) - padding
                x = (width - 1 - column if mirrored[i] else column) + int(shift[1, i]) - padding
                inside = 0 <= y < height and 0 <= x < width
                expected = pixels[i, y, x] if inside else [0, 0, 0]
                assert (result[i, row, column] == expected).all()


def test_normalisation_is_the_formula():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3)).astype(np.uint8)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    images = Images.from_arrays(pixels, np.zeros(3, np.int64), mean=mean, std=std)
    expected = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)
    result = images.normalised(images.pixels)
    assert result.shape == (3, 3, 4, 5)
    assert result.is_contiguous()
    assert np.allclose(result.double().numpy(), expected, atol=1e-6)


def test_mean_and_std_default_to_those_of_the_images():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 4, 5, 3)).astype(np.uint8)
    images = Images.from_arrays(pixels, np.zeros(30, np.int64))
    assert images.mean == pytest.approx((pixels / 255).mean((0, 1, 2)))
    assert images.std == pytest.approx((pixels / 255).std((0, 1, 2)))
    assert len(images) == 30
    assert len(images.first(7)) == 7


GOOD = np.zeros((4, 2, 2, 3), np.uint8)
LABELS = np.zeros(4, np.int64)


@pytest.mark.parametrize(
    ("images", "labels", "extra", "kind", "message"),
    [
        (GOOD.astype(float), LABELS, {}, TypeError, "uint8 array, got float64"),
        ([1], LABELS, {}, TypeError, "uint8 array, got list"),
        (GOOD[0], LABELS, {}, ValueError, r"shape \(N, H, W, C\), got \(2, 2, 3\)"),
        (GOOD[:0], LABELS[:0], {}, ValueError, r"got \(0, 2, 2, 3\)"),
        (GOOD, LABELS[:3], {}, ValueError, "4 classes counted from 0, got shape"),
        (GOOD, LABELS - 1, {}, ValueError, "smallest value -1"),
        (GOOD, LABELS.astype(float), {}, TypeError, "integer array, got float64"),
        (GOOD, LABELS, {"mean": (0.5,), "std": (1.0,)}, ValueError, "3 numbers"),
        (GOOD, LABELS, {}, ValueError, "std above 0"),
    ],
)
def test_arrays_that_are_no_images_are_refused(images, labels, extra, kind, message):
    with pytest.raises(kind, match=message):
        Images.from_arrays(images, labels, name="train", **extra)


def test_read_only_arrays_are_taken_without_a_warning():
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3)
    pixels.flags.writeable = False
    images = Images.from_arrays(pixels, LABELS, mean=(0, 0, 0), std=(1, 1, 1))
    assert images.pixels.sum() == pixels.sum()
