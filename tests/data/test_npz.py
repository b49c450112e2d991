import os
import pickle

import numpy as np
import pytest

from regrow.data import load

RNG_IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def save(path, **changes):
    arrays = {
        "train_images": RNG_IMAGES,
        "train_labels": np.array([0, 1, 2, 0, 1, 2], np.int32),
        "test_images": RNG_IMAGES[::-1],
        "test_labels": np.array([2, 1, 0, 2, 1, 0], np.uint8),
    }
    arrays = {k: v for k, v in (arrays | changes).items() if v is not None}
    np.savez(path, **arrays)
    return path


def test_arrays_come_back(tmp_path):
    data = load("npz", save(tmp_path / "set.npz"))
    np.testing.assert_array_equal(data.train_images, RNG_IMAGES)
    np.testing.assert_array_equal(data.test_images, RNG_IMAGES[::-1])
    np.testing.assert_array_equal(data.train_labels, [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(data.test_labels, [2, 1, 0, 2, 1, 0])
    assert data.classes == ("0", "1", "2")
    assert data.flip is False
    np.testing.assert_allclose(data.mean, RNG_IMAGES.reshape(-1, 3).mean(axis=0) / 255)
    assert data.train_images.flags.writeable  # torch.from_numpy warns of any other


def test_a_folder_with_one_file_will_do(tmp_path):
    save(tmp_path / "set.npz")
    np.testing.assert_array_equal(load("npz", tmp_path).train_images, RNG_IMAGES)


def test_names_and_flip_are_read(tmp_path):
    path = save(tmp_path / "set.npz", classes=np.array(["x", "y", "z"]), flip=np.array(True))
    data = load("npz", path)
    assert data.classes == ("x", "y", "z")
    assert data.flip is True


@pytest.mark.parametrize("trailing", [False, True])
def test_grey_is_repeated(tmp_path, trailing):
    grey = RNG_IMAGES[..., :1] if trailing else RNG_IMAGES[..., 0]
    data = load("npz", save(tmp_path / "set.npz", train_images=grey))
    np.testing.assert_array_equal(data.train_images, RNG_IMAGES[..., :1].repeat(3, axis=-1))


def test_labels_may_have_a_second_axis_of_one(tmp_path):
    data = load("npz", save(tmp_path / "set.npz", train_labels=np.arange(6)[:, None] % 3))
    np.testing.assert_array_equal(data.train_labels, [0, 1, 2, 0, 1, 2])


def test_subset_keeps_the_indices(tmp_path):
    data = load("npz", save(tmp_path / "set.npz"), test_samples=3, train_samples=4)
    np.testing.assert_array_equal(data.test_images, RNG_IMAGES[::-1][data.test_indices])
    np.testing.assert_array_equal(np.sort(data.test_labels), [0, 1, 2])
    assert len(data.train_images) == len(data.train_labels) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": None}, "lacks train_labels; it holds train_images"),
        ({"train_images": RNG_IMAGES / 255}, "train_images must be uint8"),
        ({"test_images": RNG_IMAGES[0, 0]}, r"shape \(N, H, W, 3\)"),
        ({"test_images": RNG_IMAGES[..., :2]}, r"got \(6, 8, 8, 2\)"),
        ({"test_labels": np.zeros(6)}, "must be integers"),
        ({"test_labels": np.zeros(5, int)}, "6 test_images, but 5 test_labels"),
        ({"test_labels": np.zeros((6, 2), int)}, r"shape \(6, 2\)"),
        ({"train_labels": np.zeros(0, int)}, "train_labels is empty"),
        ({"train_labels": np.full(6, 10**12)}, "labels reach 1000000000000 with 6"),
        ({"train_labels": np.array([-1, 0, 1, 2, 0, 1])}, r"got -1\.\.2"),
        ({"classes": np.arange(3)}, "classes must be texts"),
        ({"classes": np.array(["x", "y"])}, r"0\.\.1 \(2 classes\), got 0\.\.2"),
        ({"flip": np.array(1)}, "flip must be one True or False"),
    ],
)
def test_malformed_files_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load("npz", save(tmp_path / "set.npz", **changes))


class Trap:
    def __reduce__(self):
        return (os.mkdir, (os.environ["REGROW_TRAP"],))


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.setenv("REGROW_TRAP", str(tmp_path / "sprung"))
    trap = np.array([Trap()], dtype=object)
    np.savez(tmp_path / "set.npz", allow_pickle=True, train_images=trap)
    with pytest.raises(ValueError, match=r"cannot be read|lacks"):
        load("npz", tmp_path / "set.npz")
    save(tmp_path / "set.npz", train_labels=trap)
    with pytest.raises(ValueError, match="cannot be read"):
        load("npz", tmp_path / "set.npz")
    (tmp_path / "set.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"not a \.npz file"):
        load("npz", tmp_path / "set.npz")
    assert not (tmp_path / "sprung").exists()


def test_a_single_array_is_refused(tmp_path):
    with (tmp_path / "set.npz").open("wb") as file:
        np.save(file, RNG_IMAGES)
    with pytest.raises(ValueError, match=r"not a \.npz file"):
        load("npz", tmp_path / "set.npz")


def test_a_truncated_file_is_refused(tmp_path):
    path = save(tmp_path / "set.npz")
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"set\.npz"):
        load("npz", path)


def test_missing_and_ambiguous_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load("npz", tmp_path / "nowhere.npz")
    with pytest.raises(ValueError, match=r"exactly one \.npz file, found: none"):
        load("npz", tmp_path)
    save(tmp_path / "a.npz")
    save(tmp_path / "b.npz")
    with pytest.raises(ValueError, match=r"found: a\.npz, b\.npz"):
        load("npz", tmp_path)


def test_mnist_is_padded_to_32(tmp_path):
    grey = np.random.default_rng(1).integers(1, 256, (6, 28, 28), dtype=np.uint8)
    save(tmp_path / "mnist.npz", train_images=grey, test_images=grey)
    data = load("mnist", tmp_path)
    assert data.train_images.shape == (6, 32, 32, 3)
    np.testing.assert_array_equal(data.train_images[:, 2:30, 2:30, 1], grey)
    assert data.train_images.astype(int).sum() == 3 * grey.astype(int).sum()
    assert data.flip is False


def test_cifar_constants_and_flip_hold_for_npz_too(tmp_path):
    save(tmp_path / "cifar100.npz")
    data = load("cifar100", tmp_path)
    assert data.mean == (0.5071, 0.4865, 0.4409)
    assert data.std == (0.2673, 0.2564, 0.2762)
    assert data.flip is True
