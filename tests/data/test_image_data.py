import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from regrow.data import ImageData, checksum
from regrow.data._image_data import pixel_statistics


def image_data(**changes):
    arguments = {
        "name": "made up",
        "train_images": np.zeros((3, 4, 4, 3), np.uint8),
        "train_labels": np.array([0, 1, 1]),
        "test_images": np.zeros((2, 4, 4, 3), np.uint8),
        "test_labels": np.array([1, 0]),
        "classes": ("a", "b"),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "flip": True,
    }
    return ImageData(**(arguments | changes))


def test_fields_are_kept_and_test_indices_default_to_all_in_order():
    data = image_data()
    assert data.n_classes == 2
    assert data.flip is True
    assert data.test_indices.dtype == np.int64
    np.testing.assert_array_equal(data.test_indices, [0, 1])


def test_given_test_indices_are_kept():
    data = image_data(test_indices=np.array([7, 3]))
    np.testing.assert_array_equal(data.test_indices, [7, 3])


def test_repr_is_short():
    assert len(repr(image_data())) < 200


def test_replace_checks_again():
    assert dataclasses.replace(image_data(), flip=False).flip is False
    with pytest.raises(ValueError, match="std must be above 0"):
        dataclasses.replace(image_data(), std=(0.1, 0.0, 0.1))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"name": ""}, TypeError, "name must be"),
        ({"train_images": [[0]]}, TypeError, "train_images must be a numpy array, got list"),
        ({"train_images": np.zeros((3, 4, 4, 3))}, TypeError, "train_images must be uint8"),
        ({"train_images": np.zeros((3, 4, 4), np.uint8)}, ValueError, r"\(N, H, W, 3\)"),
        ({"test_images": np.zeros((2, 4, 4, 1), np.uint8)}, ValueError, r"\(N, H, W, 3\)"),
        ({"test_images": np.zeros((0, 4, 4, 3), np.uint8)}, ValueError, r"got \(0, 4, 4, 3\)"),
        ({"test_images": np.zeros((2, 4, 5, 3), np.uint8)}, ValueError, "must have one size"),
        ({"train_labels": np.array([0, 1, 1], np.uint8)}, TypeError, "got uint8"),
        ({"train_labels": [0, 1, 1]}, TypeError, "got list"),
        ({"train_labels": np.array([0, 1])}, ValueError, r"shape \(3,\).*got \(2,\)"),
        ({"train_labels": np.array([0, 2, 1])}, ValueError, r"0\.\.1 .*got 0\.\.2"),
        ({"test_labels": np.array([-1, 1])}, ValueError, r"test_labels .*got -1\.\.1"),
        ({"classes": ["a", "b"]}, TypeError, "tuple of texts"),
        ({"classes": (0, 1)}, TypeError, "tuple of texts"),
        ({"classes": ("a",)}, ValueError, "at least two"),
        ({"classes": ("a", "b", "a")}, ValueError, r"got \['a'\] more than once"),
        ({"mean": (0.5, 0.5)}, TypeError, "mean must be a tuple of three"),
        ({"mean": [0.5, 0.5, 0.5]}, TypeError, "mean must be a tuple of three"),
        ({"std": (0.5, float("nan"), 0.5)}, TypeError, "std must be .*finite"),
        ({"std": (0.5, 0.0, 0.5)}, ValueError, "std must be above 0"),
        ({"flip": 1}, TypeError, "flip must be True or False"),
        ({"test_indices": [0, 1]}, TypeError, "test_indices must be an int64"),
        ({"test_indices": np.array([0, 1, 2])}, ValueError, r"test_indices .*shape \(2,\)"),
        ({"test_indices": np.array([1, 1])}, ValueError, "must be different"),
        ({"test_indices": np.array([-1, 1])}, ValueError, "not negative"),
    ],
)
def test_bad_fields_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        image_data(**changes)


def test_checksum_is_sha256_of_shape_dtype_and_bytes():
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    expected = hashlib.sha256(b"(2, 3, 4) |u1 " + bytes(range(24))).hexdigest()
    assert checksum(images) == expected


@given(hnp.arrays(st.sampled_from([np.uint8, np.int64, np.float32]), hnp.array_shapes(max_dims=3)))
def test_checksum_ignores_memory_layout_alone(images):
    assert checksum(np.asfortranarray(images)) == checksum(images)
    assert checksum(images[None]) != checksum(images)
    changed = images.copy()
    changed.flat[-1] = 1 if changed.flat[-1] == 0 else 0
    assert checksum(changed) != checksum(images)


def test_checksum_of_equal_bytes_differs_by_dtype():
    assert checksum(np.zeros(4, np.uint8)) != checksum(np.zeros(4, np.int8))


def test_checksum_refuses_what_has_no_bytes():
    with pytest.raises(TypeError, match="numpy array, got list"):
        checksum([1, 2])
    with pytest.raises(TypeError, match="dtype object"):
        checksum(np.array([{}], dtype=object))


@given(hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3, st.just(3))), st.integers(1, 3))
def test_pixel_statistics_are_those_of_the_float64_formula(images, rows):
    mean, std = pixel_statistics(images, rows=rows)
    pixels = images.reshape(-1, 3).astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=0), rtol=1e-9, atol=1e-12)
