"""Data sets in damaged files: one clear error that names the file."""

import io

import numpy as np
import pytest
from damage import LIES, damaged, damages, npz, read_or_refuse
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from regrow.data import ImageData, load, read_corrupted

RANDOM = np.random.default_rng(0)
PARTS = {
    "train_images": RANDOM.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8),
    "train_labels": np.arange(4) % 2,
    "test_images": RANDOM.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8),
    "test_labels": np.arange(4) % 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@settings(max_examples=150)
@given(changes=damages)
def test_damaged_npz(folder, changes):
    path = folder / "set.npz"
    path.write_bytes(damaged(npz(PARTS), changes))
    read_or_refuse(lambda: load("npz", path), "set.npz")


@pytest.mark.parametrize("lie", LIES)
def test_npz_with_headers_that_lie(folder, lie):
    path = folder / "lie.npz"
    path.write_bytes(npz({**PARTS, "test_images": LIES[lie]}))
    assert read_or_refuse(lambda: load("npz", path), "lie.npz") is None


DATA = ImageData(
    name="noise", train_images=PARTS["train_images"], train_labels=PARTS["train_labels"],
    test_images=PARTS["test_images"], test_labels=PARTS["test_labels"], classes=("a", "b"),
    mean=(0.5,) * 3, std=(0.2,) * 3, flip=False,
)  # fmt: skip


def published(folder):
    folder.mkdir(exist_ok=True)
    np.save(folder / "labels.npy", np.tile(PARTS["test_labels"], 5))
    np.save(folder / "fog.npy", np.concatenate([PARTS["test_images"]] * 5))
    return folder


@settings(max_examples=150)
@given(changes=damages, name=st.sampled_from(["labels.npy", "fog.npy"]))
def test_damaged_published_sets(folder, changes, name):
    root = published(folder / "C")
    (root / name).write_bytes(damaged((root / name).read_bytes(), changes))
    read_or_refuse(lambda: list(read_corrupted(root, DATA)), name)


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("name", ["labels.npy", "fog.npy"])
def test_published_sets_with_headers_that_lie(folder, name, lie):
    root = published(folder / "lies")
    (root / name).write_bytes(LIES[lie])
    assert read_or_refuse(lambda: list(read_corrupted(root, DATA)), name) is None


@settings(max_examples=150)
@given(changes=damages, kind=st.sampled_from(["PNG", "JPEG", "BMP", "WEBP", "PPM"]))
def test_damaged_pictures_in_folders(folder, changes, kind):
    root = folder / "pictures"
    buffer = io.BytesIO()
    Image.fromarray(PARTS["train_images"][0]).save(buffer, kind)
    for part in ("train", "test"):
        for label in "ab":
            (root / part / label).mkdir(parents=True, exist_ok=True)
            (root / part / label / "one.png").write_bytes(buffer.getvalue())
    (root / "train" / "b" / "one.png").write_bytes(damaged(buffer.getvalue(), changes))
    read_or_refuse(lambda: load("imagefolder", root), "one.png")
