import os
import shutil

import numpy as np
import pytest

from regrow.data import ImageData, available_kinds, load, read_corrupted

N = 6
RNG = np.random.default_rng(0)
CLEAN = RNG.integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 2, 1, 0])
FOG = RNG.integers(0, 256, (5 * N, 32, 32, 3), dtype=np.uint8)
SNOW = RNG.integers(0, 256, (5 * N, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "snow.npy", SNOW)
    np.save(tmp_path / "fog.npy", FOG)
    np.save(tmp_path / "labels.npy", np.tile(LABELS, 5).astype(np.uint8))
    return tmp_path


def image_data(indices=None):
    rows = np.arange(N) if indices is None else np.array(indices)
    return ImageData(
        name="clean",
        train_images=CLEAN,
        train_labels=LABELS,
        test_images=CLEAN[rows],
        test_labels=LABELS[rows],
        classes=("a", "b", "c"),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        flip=True,
        test_indices=rows,
    )


def test_available_kinds_are_the_files_but_labels(folder):
    (folder / "notes.txt").write_text("not a corruption")
    assert available_kinds(folder) == ("fog", "snow")


def test_rows_of_each_severity(folder):
    corrupted = read_corrupted(folder, image_data())
    assert corrupted.kinds == ("fog", "snow")
    assert corrupted.severities == (1, 2, 3, 4, 5)
    for severity in range(1, 6):
        for kind, stored in (("fog", FOG), ("snow", SNOW)):
            images = corrupted.images(kind, severity)
            np.testing.assert_array_equal(images, stored[(severity - 1) * N : severity * N])


def test_images_are_ordinary_arrays(folder):
    images = read_corrupted(folder, image_data()).images("fog", 1)
    assert type(images) is np.ndarray
    assert images.flags.writeable
    assert images.flags.c_contiguous
    images[:] = 0  # a copy: the file keeps its pixels
    assert read_corrupted(folder, image_data()).images("fog", 1).any()


def test_a_subset_takes_its_own_rows(folder):
    corrupted = read_corrupted(folder, image_data([4, 1, 3]))
    np.testing.assert_array_equal(corrupted.images("snow", 2), SNOW[[N + 4, N + 1, N + 3]])


def test_iteration_goes_kind_by_kind_in_the_order_asked_for(folder):
    corrupted = read_corrupted(folder, image_data(), kinds=["snow", "fog"], severities=[5, 1])
    seen = list(corrupted)
    assert [(k, s) for k, s, _ in seen] == [("snow", 5), ("snow", 1), ("fog", 5), ("fog", 1)]
    np.testing.assert_array_equal(seen[0][2], SNOW[4 * N :])
    np.testing.assert_array_equal(seen[3][2], FOG[:N])


def test_only_what_was_asked_for_is_given(folder):
    corrupted = read_corrupted(folder, image_data(), kinds=["fog"], severities=[2])
    with pytest.raises(ValueError, match="kind must be one of fog; got 'snow'"):
        corrupted.images("snow", 2)
    with pytest.raises(ValueError, match=r"severity must be one of \(2,\), got 1"):
        corrupted.images("fog", 1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kinds": ["frost"]}, ValueError, "kinds must be one of fog, snow; got 'frost'"),
        ({"kinds": ["../fog"]}, ValueError, "kinds must be one of"),
        ({"kinds": ["labels"]}, ValueError, "kinds must be one of"),
        ({"kinds": []}, ValueError, "not empty"),
        ({"kinds": "fog"}, ValueError, "kinds must be a sequence"),
        ({"kinds": ["fog", "fog"]}, ValueError, "twice"),
        ({"severities": [0]}, ValueError, "at least 1"),
        ({"severities": [6]}, ValueError, r"1\.\.5, got 6"),
        ({"severities": [1, 1]}, ValueError, "twice"),
        ({"severities": []}, ValueError, "not empty"),
        ({"severities": [1.0]}, TypeError, "integer"),
    ],
)
def test_bad_requests_are_refused(folder, arguments, error, message):
    with pytest.raises(error, match=message):
        read_corrupted(folder, image_data(), **arguments)


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("fog", FOG[:-1], r"fog\.npy must be uint8 of shape \(30, 32, 32, 3\)"),
        ("fog", FOG[:, :16], r"got uint8 of shape \(30, 16, 32, 3\)"),
        ("fog", FOG.astype(np.float32), "got float32"),
        ("labels", np.tile(LABELS, 5)[:-1], r"integers of shape \(5 n,\)"),
        ("labels", np.tile(LABELS, 5).astype(float), "got float64"),
        ("labels", np.repeat(LABELS, 5), "repeat the same labels 5 times"),
        ("labels", np.tile(LABELS[::-1] * 0, 5), "at 4 of 6 test images"),
        ("labels", np.tile(LABELS[:5], 5), "labels of 5 images, but test image number 5"),
    ],
)
def test_files_off_the_layout_are_refused(folder, file, array, message):
    np.save(folder / f"{file}.npy", array)
    with pytest.raises(ValueError, match=message):
        read_corrupted(folder, image_data())


def test_labels_are_checked_for_a_subset_too(folder):
    wrong = LABELS.copy()
    wrong[3] = 0
    np.save(folder / "labels.npy", np.tile(wrong, 5))
    read_corrupted(folder, image_data([0, 1]))
    with pytest.raises(ValueError, match="at 1 of 2 test images"):
        read_corrupted(folder, image_data([0, 3]))


def test_a_kind_that_is_not_asked_for_is_not_opened(folder):
    (folder / "fog.npy").write_bytes(b"not an array")
    read_corrupted(folder, image_data(), kinds=["snow"])
    with pytest.raises(ValueError, match=r"fog\.npy cannot be read"):
        read_corrupted(folder, image_data())


class Trap:
    def __reduce__(self):
        return (os.mkdir, (os.environ["REGROW_TRAP"],))


def test_nothing_is_unpickled(folder, monkeypatch):
    monkeypatch.setenv("REGROW_TRAP", str(folder / "sprung"))
    np.save(folder / "fog.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"fog\.npy cannot be read"):
        read_corrupted(folder, image_data())
    assert not (folder / "sprung").exists()


def test_folders_without_the_layout_are_refused(folder, tmp_path_factory):
    with pytest.raises(ValueError, match="is not a folder"):
        available_kinds(folder / "nowhere")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(ValueError, match=r"no \.npy file of a corruption"):
        available_kinds(empty)
    shutil.copy(folder / "fog.npy", empty)
    with pytest.raises(ValueError, match=r"no labels\.npy"):
        available_kinds(empty)


def test_a_loaded_subset_finds_its_rows(tmp_path):
    """From `load` to `read_corrupted`: rows of a subset are those of its own images."""
    whole = load("digits")
    np.save(tmp_path / "identity.npy", np.tile(whole.test_images, (5, 1, 1, 1)))
    np.save(tmp_path / "labels.npy", np.tile(whole.test_labels, 5))
    part = load("digits", test_samples=37)
    images = read_corrupted(tmp_path, part).images("identity", 4)
    np.testing.assert_array_equal(images, part.test_images)
