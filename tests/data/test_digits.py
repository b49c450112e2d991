from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from regrow.data import checksum, load
from regrow.data._digits import enlarge

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")


def keys(t: Fraction) -> Fraction:
    """Cubic convolution kernel with a = -1/2 (Keys 1981, equation 15)."""
    t, a = abs(t), Fraction(-1, 2)
    if t < 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    if t < 2:
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return Fraction(0)


def resample(values: list[Fraction]) -> list[Fraction]:
    """One row enlarged fourfold by the definition: pixel centres at half integers."""
    n = len(values)
    row = []
    for out in range(4 * n):
        centre = Fraction(2 * out + 1, 8) - Fraction(1, 2)
        taps = range(-4, n + 4)
        row.append(sum(keys(centre - k) * values[min(max(k, 0), n - 1)] for k in taps))
    return row


@given(hnp.arrays(np.int64, (3, 2), elements=st.integers(0, 16)))
def test_enlarging_is_cubic_convolution(image):
    rows = [resample([Fraction(int(v)) for v in row]) for row in image]
    columns = [resample(list(column)) for column in zip(*rows, strict=True)]
    exact = [[columns[x][y] * 255 / 16 for x in range(8)] for y in range(12)]
    expected = [[min(max(int((v + Fraction(1, 2)) // 1), 0), 255) for v in row] for row in exact]
    np.testing.assert_array_equal(enlarge(image[None])[0], expected)


def test_split_is_fixed_stratified_and_whole():
    data = load("digits")
    assert data.train_images.shape == (1297, 32, 32, 3)
    assert data.test_images.shape == (500, 32, 32, 3)
    assert data.classes == tuple("0123456789")
    assert data.flip is False
    n_train, n_test = np.bincount(data.train_labels), np.bincount(data.test_labels)
    np.testing.assert_allclose(n_test, (n_train + n_test) * 500 / 1797, atol=1)
    np.testing.assert_array_equal(data.test_indices, np.arange(500))
    # A split and an enlargement are part of every result: they must not change.
    assert checksum(data.test_images).startswith("475cc248318b2247")


def test_images_are_the_digits_enlarged():
    from sklearn.datasets import load_digits

    original = load_digits()
    data = load("digits")
    images = np.concatenate([data.train_images, data.test_images])
    labels = np.concatenate([data.train_labels, data.test_labels])
    assert (images == images[..., :1]).all()
    # Averaging 4x4 pixels comes back to the original but for the rounding of edges, so that each
    # image still finds its original among all 1,797, with its label.
    small = images[..., 0].reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(-1, 64) * 16 / 255
    reference = original.images.reshape(-1, 64)
    nearest = np.array([((reference - row) ** 2).sum(axis=1).argmin() for row in small])
    assert len(set(nearest.tolist())) >= 1790  # a few digits are all but equal
    np.testing.assert_array_equal(original.target[nearest], labels)


def test_training_statistics_are_used():
    data = load("digits", train_samples=50)
    pixels = data.train_images.reshape(-1, 3) / 255
    np.testing.assert_allclose(data.mean, pixels.mean(axis=0))
    np.testing.assert_allclose(data.std, pixels.std(axis=0))
