import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

import regrow.data._torchvision
from regrow.data import NAMES, checksum, load

pytest.importorskip("torchvision", reason="official layouts are read by torchvision")

REAL = os.environ.get("REGROW_TEST_DATA")


def real(*files: str) -> Path:
    """Folder of real data, or a skip that says what is missing."""
    if REAL is None:
        pytest.skip("REGROW_TEST_DATA names no folder with real data")
    for file in files:
        if not (Path(REAL) / file).exists():
            pytest.skip(f"{REAL} holds no {file}")
    return Path(REAL)


def write_mnist(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """The IDX format (LeCun et al. 1998): big-endian header, then bytes."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        head = struct.pack(">iiii", 2051, *images.shape)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">ii", 2049, len(labels))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())


def test_names():
    official = ["mnist", "cifar10", "cifar100", "tiny-imagenet", "imagenet"]
    assert list(NAMES) == ["digits", *official, "imagefolder", "npz"]
    with pytest.raises(ValueError, match=r"name must be one of digits, mnist.*got 'svhn'"):
        load("svhn")


def test_mnist_is_read_from_torchvisions_layout(tmp_path):
    images = np.random.default_rng(0).integers(1, 256, (10, 28, 28), dtype=np.uint8)
    labels = np.arange(10, dtype=np.uint8)
    write_mnist(tmp_path, images, labels)
    data = load("mnist", tmp_path)
    np.testing.assert_array_equal(data.train_labels, labels)
    assert data.train_images.shape == (10, 32, 32, 3)
    for channel in range(3):
        np.testing.assert_array_equal(data.train_images[:, 2:-2, 2:-2, channel], images)
    assert data.train_images.astype(int).sum() == 3 * images.astype(int).sum()
    assert len(data.classes) == 10
    assert data.flip is False


def test_a_damaged_mnist_file_is_refused(tmp_path):
    write_mnist(tmp_path, np.zeros((10, 28, 28), np.uint8), np.arange(10, dtype=np.uint8))
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="torchvision does not accept the files"):
        load("mnist", tmp_path)


class Trap:
    def __reduce__(self):
        return (os.mkdir, (os.environ["REGROW_TRAP"],))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_files_that_are_not_the_official_ones_are_never_unpickled(tmp_path, monkeypatch, name):
    monkeypatch.setenv("REGROW_TRAP", str(tmp_path / "sprung"))
    layout = regrow.data._torchvision.LAYOUTS[name]
    (tmp_path / layout.folder).mkdir()
    for file in layout.files:
        (tmp_path / layout.folder / file).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"not the official ones.*download=True"):
        load(name, tmp_path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mnist", "MNIST/raw with train-images-idx3-ubyte"),
        ("cifar10", "cifar-10-batches-py with data_batch_1"),
        ("cifar100", "cifar-100-python with train"),
    ],
)
def test_missing_data_says_what_was_looked_for_and_what_would_do(tmp_path, name, files):
    with pytest.raises(ValueError, match="not found") as caught:
        load(name, tmp_path / "nowhere")
    message = str(caught.value)
    for part in (files, f"{name}.npz", "download=True", "--download", str(tmp_path / "nowhere")):
        assert part in message
    assert not (tmp_path / "nowhere").exists()


def test_missing_files_of_an_incomplete_layout_are_named(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "train").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\(missing: test, meta\)"):
        load("cifar100", tmp_path)


def test_download_is_left_to_torchvision_and_only_where_needed(tmp_path, monkeypatch):
    import torchvision.datasets

    images = np.random.default_rng(0).integers(0, 256, (10, 28, 28), dtype=np.uint8)
    calls = []

    def download(self):
        calls.append(self.root)
        write_mnist(Path(self.root), images, np.arange(10, dtype=np.uint8))

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    first = load("mnist", tmp_path, download=True)
    second = load("mnist", tmp_path, download=True)
    assert calls == [tmp_path]
    assert checksum(first.train_images) == checksum(second.train_images)


def test_a_download_that_fails_says_what_to_do(tmp_path, monkeypatch):
    import torchvision.datasets

    def download(self):
        raise RuntimeError("no route to host")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    with pytest.raises(OSError, match=r"no route to host.*cifar-10-batches-py"):
        load("cifar10", tmp_path, download=True)


@pytest.mark.parametrize("name", ["digits", "npz", "imagefolder", "imagenet"])
def test_download_is_refused_where_there_is_nothing_to_fetch(tmp_path, name):
    with pytest.raises(ValueError, match=f"download=True works with.*'{name}' has nothing"):
        load(name, tmp_path, download=True)


def test_data_dir_is_refused_or_required(tmp_path):
    with pytest.raises(ValueError, match="has no use with name='digits'"):
        load("digits", tmp_path)
    for name in NAMES[1:]:
        with pytest.raises(ValueError, match=f"data_dir is needed for name='{name}'"):
            load(name)


@pytest.mark.parametrize("argument", ["train_samples", "test_samples"])
def test_sample_counts_are_checked(argument):
    with pytest.raises(ValueError, match=f"{argument} must be at least 1, got 0"):
        load("digits", **{argument: 0})
    with pytest.raises(TypeError, match=f"{argument} must be an integer"):
        load("digits", **{argument: 10.0})
    with pytest.raises(ValueError, match=r"digits .*from 10 .*to (1297|500)"):
        load("digits", **{argument: 1298})


def test_subset_is_repeatable_and_part_of_the_whole():
    whole, part = load("digits"), load("digits", train_samples=100, test_samples=50)
    np.testing.assert_array_equal(part.test_images, whole.test_images[part.test_indices])
    np.testing.assert_array_equal(part.test_labels, whole.test_labels[part.test_indices])
    assert set(np.bincount(part.test_labels)) == {5}
    again = load("digits", train_samples=100, test_samples=50)
    assert checksum(again.train_images) == checksum(part.train_images)


def test_real_mnist():
    data = load("mnist", real("MNIST/raw"))
    assert data.train_images.shape == (60_000, 32, 32, 3)
    assert data.test_images.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(data.train_labels[:5], [5, 0, 4, 1, 9])
    np.testing.assert_array_equal(data.test_labels[:5], [7, 2, 1, 0, 4])
    # The usual mean of 28x28 pixels, 0.1307, spread over 32x32.
    assert data.mean[0] == pytest.approx(0.1307 * 28**2 / 32**2, abs=1e-4)


def test_real_cifar10():
    data = load("cifar10", real("cifar-10-batches-py"))
    assert data.train_images.shape == (50_000, 32, 32, 3)
    assert data.test_images.shape == (10_000, 32, 32, 3)
    assert data.classes[:4] == ("airplane", "automobile", "bird", "cat")
    assert data.classes[data.train_labels[0]] == "frog"
    assert data.classes[data.test_labels[0]] == "cat"
    assert set(np.bincount(data.train_labels)) == {5000}
    assert set(np.bincount(data.test_labels)) == {1000}
    # Stored as planes of channels: means in the wrong order would give them away.
    pixels = data.train_images.mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(pixels, data.mean, atol=2e-4)


def test_real_cifar100():
    folder = real("cifar100.npz")
    data = load("cifar100", folder, train_samples=2000, test_samples=1000)
    assert len(data.classes) == 100
    assert data.classes[:2] == ("apple", "aquarium_fish")
    assert set(np.bincount(data.train_labels)) == {20}
    assert set(np.bincount(data.test_labels)) == {10}
    np.testing.assert_allclose(data.train_images.mean(axis=(0, 1, 2)) / 255, data.mean, atol=0.01)


def test_gzipped_files_alone_are_not_enough(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match="missing: train-images-idx3-ubyte"):
        load("mnist", tmp_path)
