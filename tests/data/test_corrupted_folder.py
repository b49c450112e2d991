"""Published corrupted sets in the layout of ImageNet-C and Tiny-ImageNet-C."""

import shutil

import numpy as np
import pytest

import regrow.data._memory
from regrow.data import ImageData, available_kinds, read_corrupted

Image = pytest.importorskip("PIL.Image", reason="image files are read by Pillow")

FILES = {"n01": ("b.JPEG", "a.JPEG"), "n02": ("d.JPEG", "c.JPEG", "e.JPEG")}
LABELS = np.array([0, 0, 1, 1, 1])
ORDER = ["n01/a.JPEG", "n01/b.JPEG", "n02/c.JPEG", "n02/d.JPEG", "n02/e.JPEG"]


@pytest.fixture
def pixels(tmp_path):
    """(kind, severity, file) -> image, of a folder of two kinds at five severities."""
    found = {}
    for kind in ("snow", "fog"):
        for severity in range(1, 6):
            for label, names in FILES.items():
                for name in names:
                    path = tmp_path / kind / str(severity) / label / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    value = 40 * severity + 3 * len(found) % 40
                    Image.new("RGB", (64, 64), (value, 90, 255 - value)).save(path, quality=85)
                    with Image.open(path) as image:
                        found[kind, severity, f"{label}/{name}"] = np.asarray(image)
    return found


def image_data(indices=range(5), *, classes=("n01", "n02"), labels=LABELS, side=64):
    rows = np.array(list(indices))
    images = np.zeros((len(rows), side, side, 3), np.uint8)
    return ImageData(
        name="clean",
        train_images=images,
        train_labels=labels[rows],
        test_images=images,
        test_labels=labels[rows],
        classes=classes,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        flip=True,
        test_indices=rows,
    )


def test_kinds_are_the_folders_with_severities(pixels, tmp_path):
    (tmp_path / "readme.txt").write_text("not a corruption")
    (tmp_path / "train" / "n01").mkdir(parents=True)
    assert available_kinds(tmp_path) == ("fog", "snow")


def test_images_are_ordered_by_class_and_name(pixels, tmp_path):
    corrupted = read_corrupted(tmp_path, image_data())
    assert corrupted.n_published == 5
    seen = {(kind, severity): images for kind, severity, images in corrupted}
    assert len(seen) == 10
    for (kind, severity), images in seen.items():
        np.testing.assert_array_equal(images, [pixels[kind, severity, name] for name in ORDER])
        assert images.dtype == np.uint8


def test_a_subset_takes_its_own_files(pixels, tmp_path):
    corrupted = read_corrupted(tmp_path, image_data([1, 4]), kinds=["snow"], severities=[3])
    for name in ("a", "c", "d"):
        for path in (tmp_path / "snow" / "3").rglob(f"{name}.JPEG"):
            path.write_bytes(b"broken")
    expected = [pixels["snow", 3, ORDER[row]] for row in (1, 4)]
    np.testing.assert_array_equal(corrupted.images("snow", 3), expected)
    with pytest.raises(ValueError, match="severity must be one of"):
        corrupted.images("snow", 2)


def test_classes_that_the_data_set_lacks_are_left_aside(pixels, tmp_path):
    for kind in ("snow", "fog"):
        for severity in range(1, 6):
            shutil.copytree(tmp_path / kind / "1" / "n01", tmp_path / kind / str(severity) / "n00")
    corrupted = read_corrupted(tmp_path, image_data())
    np.testing.assert_array_equal(
        corrupted.images("fog", 4), [pixels["fog", 4, name] for name in ORDER]
    )


def test_missing_folders_are_named_before_anything_is_read(pixels, tmp_path):
    shutil.rmtree(tmp_path / "snow" / "2" / "n02")
    read_corrupted(tmp_path, image_data(), severities=[1])
    with pytest.raises(ValueError, match=r"snow.2 holds no folder of the class 'n02'.*\(1 of 2"):
        read_corrupted(tmp_path, image_data())
    shutil.rmtree(tmp_path / "snow" / "2")
    with pytest.raises(ValueError, match=r"snow.2 is not a folder"):
        read_corrupted(tmp_path, image_data())


def test_other_data_is_refused(pixels, tmp_path):
    with pytest.raises(ValueError, match="no folder of the class 'cat'"):
        read_corrupted(tmp_path, image_data(classes=("cat", "n01")))
    with pytest.raises(ValueError, match="at 1 of 5 test images"):
        read_corrupted(tmp_path, image_data(labels=np.array([0, 0, 0, 1, 1])))
    with pytest.raises(ValueError, match="labels of 5 images, but test image number 5"):
        read_corrupted(tmp_path, image_data(range(6), labels=np.array([0, 0, 1, 1, 1, 1])))
    corrupted = read_corrupted(tmp_path, image_data(side=32))
    with pytest.raises(ValueError, match="is 64x64, images of this set are 32x32"):
        corrupted.images("fog", 1)


def test_a_set_with_other_files_is_refused(pixels, tmp_path):
    place = tmp_path / "snow" / "4" / "n01"
    (place / "a.JPEG").rename(place / "z.JPEG")
    corrupted = read_corrupted(tmp_path, image_data())
    corrupted.images("snow", 3)
    with pytest.raises(ValueError, match=r"snow.4 must hold the same files.*n01/a\.JPEG is not"):
        corrupted.images("snow", 4)


def test_a_set_that_does_not_fit_into_memory_is_refused(pixels, tmp_path, monkeypatch):
    corrupted = read_corrupted(tmp_path, image_data())
    monkeypatch.setattr(regrow.data._memory, "available_memory", lambda: 5 * 3 * 64**2 - 1)
    with pytest.raises(ValueError, match=r"5 images of .*fog.1 take"):
        corrupted.images("fog", 1)
