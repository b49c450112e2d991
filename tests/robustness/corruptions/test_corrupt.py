import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from robustness.corruptions.corruption_cases import sample_images, write_textures

from regrow.robustness import corruptions
from regrow.robustness.corruptions import (
    ALL,
    COMMON,
    DETERMINISTIC,
    EXTRA,
    _corrupt,
    available,
    corrupt,
    corrupt_seeded,
)
from regrow.robustness.corruptions._constants import SIZES

RANDOM = tuple(name for name in ALL if name not in DETERMINISTIC)
IMAGES = sample_images(32)
SEEDS = np.arange(100, 107)


@pytest.fixture(scope="module")
def frost_dir(tmp_path_factory):
    return write_textures(tmp_path_factory.mktemp("frost"))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_names():
    assert len(COMMON) == 15
    assert EXTRA == ("speckle_noise", "gaussian_blur", "spatter", "saturate")
    assert ALL == COMMON + EXTRA
    assert len(DETERMINISTIC) == 8
    assert set(corruptions.__all__) <= set(dir(corruptions))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", SIZES)
def test_every_name_at_every_size(name, size, frost_dir):
    images = sample_images(size, n_images=2)
    before = images.copy()
    for severity in range(1, 6) if size == 32 else (1, 5):
        result = corrupt(images, name, severity, generator=seeded(), frost_dir=frost_dir)
        assert result.dtype == np.uint8
        assert result.shape == images.shape
        assert not np.shares_memory(result, images)
        assert np.any(result[0] != images[0])
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("name", ALL)
def test_empty_batch(name, frost_dir):
    empty = np.zeros((0, 32, 32, 3), dtype=np.uint8)
    result = corrupt(empty, name, 2, generator=seeded(), frost_dir=frost_dir)
    assert result.shape == (0, 32, 32, 3)
    assert result.dtype == np.uint8


@pytest.mark.parametrize("name", ALL)
def test_layout_in_memory_does_not_matter(name, frost_dir):
    expected = corrupt_seeded(IMAGES, name, 3, seeds=SEEDS, frost_dir=frost_dir)
    planar = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    read_only = IMAGES.copy()
    read_only.flags.writeable = False
    spaced = np.repeat(SEEDS, 2)[::2]
    for images, seeds in ((planar, SEEDS), (read_only, spaced)):
        result = corrupt_seeded(images, name, 3, seeds=seeds, frost_dir=frost_dir)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("name", ALL)
def test_chunks_do_not_matter(name, frost_dir, monkeypatch):
    whole = corrupt_seeded(IMAGES, name, 4, seeds=SEEDS, frost_dir=frost_dir)
    for n_chunk in (1, 3):
        monkeypatch.setattr(_corrupt, "_CHUNK", 3 * 32**2 * n_chunk)
        parts = corrupt_seeded(IMAGES, name, 4, seeds=SEEDS, frost_dir=frost_dir)
        np.testing.assert_array_equal(parts, whole)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(tuple(name for name in ALL if name != "frost")),
    severity=st.integers(1, 5),
    order=st.permutations(range(7)),
    cut=st.integers(0, 7),
    seed=st.integers(-(2**63), 2**63 - 8),
)
def test_an_image_depends_on_its_own_seed_only(name, severity, order, cut, seed):
    seeds = seed + np.arange(7)
    whole = corrupt_seeded(IMAGES, name, severity, seeds=seeds)
    shuffled = [IMAGES[order][part] for part in (slice(0, cut), slice(cut, 7))]
    own = [seeds[order][part] for part in (slice(0, cut), slice(cut, 7))]
    parts = [
        corrupt_seeded(images, name, severity, seeds=some)
        for images, some in zip(shuffled, own, strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole[order])


@pytest.mark.parametrize("name", RANDOM)
def test_seeds_matter_and_repeat(name, frost_dir):
    images = np.repeat(IMAGES[:1], 7, axis=0)
    first = corrupt_seeded(images, name, 5, seeds=SEEDS, frost_dir=frost_dir)
    again = corrupt_seeded(images, name, 5, seeds=SEEDS, frost_dir=frost_dir)
    np.testing.assert_array_equal(first, again)
    for one, other in itertools.combinations(first, 2):
        assert np.any(one != other)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_seeds_do_not_matter_without_randomness(name):
    results = [corrupt_seeded(IMAGES, name, 5, seeds=SEEDS + shift) for shift in (0, 50)]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name", ["gaussian_noise", "jpeg_compression"])
def test_one_seed_an_image_comes_from_the_generator(name):
    ours, theirs = seeded(3), seeded(3)
    limits = torch.iinfo(torch.int64)
    seeds = torch.randint(limits.min, limits.max, (7,), generator=theirs).numpy()
    np.testing.assert_array_equal(
        corrupt(IMAGES, name, 2, generator=ours), corrupt_seeded(IMAGES, name, 2, seeds=seeds)
    )
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_splitting_a_batch_continues_the_generator():
    whole = corrupt(IMAGES, "fog", 2, generator=seeded())
    generator = seeded()
    parts = [
        corrupt(IMAGES[part], "fog", 2, generator=generator) for part in (slice(3), slice(3, 7))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_global_generators_are_left_alone(frost_dir):
    def states():
        return np.random.get_state()[1].copy(), torch.get_rng_state().clone()  # noqa: NPY002

    before = states()
    for name in ALL:
        corrupt(IMAGES, name, 1, generator=seeded(), frost_dir=frost_dir)
    after = states()
    np.testing.assert_array_equal(after[0], before[0])
    assert torch.equal(after[1], before[1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"name": "fgo"}, ValueError, "name must be one of gaussian_noise, .*got 'fgo'"),
        ({"severity": 0}, ValueError, "severity must be at least 1, got 0"),
        ({"severity": 6}, ValueError, "severity must lie in 1..5, got 6"),
        ({"severity": 1.0}, TypeError, "severity must be an integer"),
        ({"severity": True}, TypeError, "severity must be an integer"),
        ({"images": IMAGES / 255}, TypeError, "uint8 .*got float64"),
        ({"images": torch.zeros(1, 32, 32, 3)}, TypeError, "NumPy array .*got Tensor"),
        ({"images": IMAGES[0]}, ValueError, r"\(N, size, size, 3\).*got \(32, 32, 3\)"),
        ({"images": IMAGES[:, :, :24]}, ValueError, "one of 32, 64, 224"),
        ({"images": IMAGES[:, :28, :28]}, ValueError, "one of 32, 64, 224"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, ValueError, "one of 32, 64, 224"),
        ({"images": IMAGES[..., :1]}, ValueError, "one of 32, 64, 224"),
    ],
)
def test_bad_arguments(change, error, message):
    arguments = {"images": IMAGES, "name": "fog", "severity": 1} | change
    with pytest.raises(error, match=message):
        corrupt(**arguments, generator=seeded())
    with pytest.raises(error, match=message):
        corrupt_seeded(**arguments, seeds=SEEDS)


@pytest.mark.parametrize(
    ("seeds", "error", "message"),
    [
        (list(range(7)), TypeError, "seeds must be a NumPy array of int64, got list"),
        (SEEDS.astype(np.uint64), TypeError, "got uint64"),
        (SEEDS[:6], ValueError, r"shape \(7,\), one for each image; got \(6,\)"),
        (SEEDS[:, None], ValueError, r"got \(7, 1\)"),
    ],
)
def test_bad_seeds(seeds, error, message):
    with pytest.raises(error, match=message):
        corrupt_seeded(IMAGES, "fog", 1, seeds=seeds)


def test_bad_generator():
    with pytest.raises(TypeError, match=r"torch\.Generator, got int"):
        corrupt(IMAGES, "fog", 1, generator=0)
    with pytest.raises(TypeError, match=r"torch\.Generator, got Generator"):
        corrupt(IMAGES, "fog", 1, generator=np.random.default_rng(0))


def test_available(frost_dir, tmp_path):
    without = tuple(name for name in ALL if name != "frost")
    assert available() == without
    assert available(tmp_path) == without
    assert available(frost_dir) == ALL


@pytest.mark.parametrize("name", ["gaussian_noise", "zoom_blur", "glass_blur", "elastic_transform"])
def test_memory_does_not_grow_with_the_batch(name):
    images = np.repeat(IMAGES, 300, axis=0)
    seeds = np.arange(len(images))
    corrupt_seeded(images[:7], name, 5, seeds=seeds[:7])  # fills the caches
    tracemalloc.start()
    try:
        corrupt_seeded(images, name, 5, seeds=seeds)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - images.nbytes < 8 * 2**20  # float64 copies of all images would be 49 MiB each
