import os

import cv2
import numpy as np
import pytest
import torch
from robustness.corruptions.corruption_cases import (
    TEXTURE_SHAPES,
    drawn_batch,
    sample_images,
    write_textures,
)

from regrow.robustness.corruptions import corrupt, corrupt_seeded
from regrow.robustness.corruptions._frost import TEXTURE_NAMES, load_textures

IMAGES = sample_images(32)
SEEDS = np.arange(7)


def test_without_a_folder_the_error_says_what_to_pass():
    with pytest.raises(ValueError, match=r"pass frost_dir, a folder with frost1\.png.*frost5\.jpg"):
        corrupt(IMAGES, "frost", 1, generator=torch.Generator())


def test_missing_files_are_named(tmp_path):
    write_textures(tmp_path)
    (tmp_path / "frost4.jpg").unlink()
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    with pytest.raises(FileNotFoundError, match=r"lacks frost4\.jpg; needed are frost1\.png"):
        corrupt(IMAGES, "frost", 1, generator=generator, frost_dir=tmp_path)
    assert torch.equal(generator.get_state(), before)
    with pytest.raises(FileNotFoundError, match="lacks frost1"):
        corrupt(IMAGES, "frost", 1, generator=generator, frost_dir=tmp_path / "nowhere")


def test_unusable_files_are_named(tmp_path):
    write_textures(tmp_path)
    cv2.imwrite(str(tmp_path / "frost2.png"), np.zeros((100, 200, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"frost2\.png, scaled by 0\.2, has 20 x 40 pixels"):
        load_textures(tmp_path, 32)
    (tmp_path / "frost2.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"frost2\.png cannot be read"):
        load_textures(tmp_path, 32)


def test_the_folder_is_only_looked_at_for_frost(tmp_path):
    result = corrupt_seeded(IMAGES, "fog", 1, seeds=SEEDS, frost_dir=tmp_path / "nowhere")
    np.testing.assert_array_equal(result, corrupt_seeded(IMAGES, "fog", 1, seeds=SEEDS))


@pytest.mark.parametrize(("size", "scale"), [(32, 0.2), (64, 0.3), (224, 1.0)])
def test_textures_are_scaled_turned_to_rgb_and_read_only(tmp_path, size, scale):
    write_textures(tmp_path)
    for name, texture in zip(TEXTURE_NAMES, load_textures(tmp_path, size), strict=True):
        picture = cv2.imread(str(tmp_path / name))
        expected = cv2.resize(picture, (0, 0), fx=scale, fy=scale)[..., [2, 1, 0]]
        np.testing.assert_array_equal(texture, expected)
        assert not texture.flags.writeable
        height, width = TEXTURE_SHAPES[name]
        assert texture.shape == (round(height * scale), round(width * scale), 3)


def test_a_sixth_texture_is_never_used(tmp_path):
    write_textures(tmp_path)
    assert len(load_textures(tmp_path, 32)) == 5
    without = corrupt_seeded(IMAGES, "frost", 3, seeds=SEEDS, frost_dir=tmp_path)
    cv2.imwrite(str(tmp_path / "frost6.jpg"), np.full((323, 485, 3), 255, dtype=np.uint8))
    with_sixth = corrupt_seeded(IMAGES, "frost", 3, seeds=SEEDS, frost_dir=tmp_path)
    np.testing.assert_array_equal(without, with_sixth)


def test_a_replaced_texture_is_read_again(tmp_path):
    write_textures(tmp_path)
    before = load_textures(tmp_path, 32)
    assert all(one is other for one, other in zip(before, load_textures(tmp_path, 32), strict=True))
    path = tmp_path / "frost1.png"
    stamp = path.stat().st_mtime_ns
    cv2.imwrite(str(path), np.full((*TEXTURE_SHAPES["frost1.png"], 3), 9, dtype=np.uint8))
    os.utime(path, ns=(stamp + 10**9, stamp + 10**9))
    after = load_textures(tmp_path, 32)
    assert (after[0] == 9).all()
    assert after[1] is before[1]


def test_crops_cover_all_textures_and_stay_inside(tmp_path):
    write_textures(tmp_path)
    images = np.zeros((3000, 32, 32, 3), dtype=np.uint8)
    batch = drawn_batch("frost", 1, images, frost_dir=tmp_path)
    numbers, rows, columns = batch.draws[0].T
    counts = np.bincount(numbers, minlength=5)
    assert counts.min() > 500  # 600 expected, deviation 22
    for number, texture in enumerate(batch.textures):
        height, width, _ = texture.shape
        chosen = numbers == number
        assert rows[chosen].min() == 0
        # The published draw leaves the last place out.
        assert rows[chosen].max() == height - 33
        assert columns[chosen].min() >= 0
        assert columns[chosen].max() <= width - 33
