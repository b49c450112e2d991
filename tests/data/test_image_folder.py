import numpy as np
import pytest

from regrow.data import load

Image = pytest.importorskip("PIL.Image", reason="image folders are read by Pillow")

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two classes: two training images and one test image each, as lossless PNG."""
    number = iter(range(8))
    for part, names in (("train", ("1.png", "0.png")), ("test", ("t.png",))):
        for label in ("zebra", "ant"):
            place = tmp_path / part / label
            place.mkdir(parents=True)
            for name in names:
                Image.fromarray(PIXELS[next(number)]).save(place / name)
    return tmp_path


def test_images_come_back_ordered_by_class_and_name(folder):
    data = load("imagefolder", folder)
    assert data.classes == ("ant", "zebra")
    np.testing.assert_array_equal(data.train_labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(data.train_images, PIXELS[[3, 2, 1, 0]])
    np.testing.assert_array_equal(data.test_images, PIXELS[[5, 4]])
    assert data.flip is True
    np.testing.assert_allclose(data.mean, PIXELS[:4].reshape(-1, 3).mean(axis=0) / 255)


def test_order_is_that_of_the_names_whatever_the_file_system_says(folder):
    for number in (7, 3, 9, 5, 8, 4):
        pixels = np.full((32, 32, 3), number, np.uint8)
        Image.fromarray(pixels).save(folder / "train" / "zebra" / f"{number}.png")
    images = load("imagefolder", folder).train_images
    assert images[-6:, 0, 0, 0].tolist() == [3, 4, 5, 7, 8, 9]


def test_val_serves_where_there_is_no_test(folder):
    (folder / "test").rename(folder / "val")
    np.testing.assert_array_equal(load("imagefolder", folder).test_images, PIXELS[[5, 4]])


def test_other_files_and_hidden_ones_are_no_images(folder):
    (folder / "train" / "ant" / "boxes.txt").write_text("0 0 1 1")
    (folder / "train" / "ant" / "._0.png").write_text("a file manager's")
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "README.md").write_text("read me")
    assert len(load("imagefolder", folder).train_images) == 4


def test_a_subset_reads_its_own_files_only(folder):
    data = load("imagefolder", folder, train_samples=2)
    np.testing.assert_array_equal(data.train_labels, [0, 1])
    whole = load("imagefolder", folder).train_images
    kept = [i for i in range(4) if (whole[i] == data.train_images).all(axis=(1, 2, 3)).any()]
    assert len(kept) == 2
    dropped = ({0, 1, 2, 3} - set(kept)).pop()
    path = [folder / "train" / c / f"{k}.png" for c in ("ant", "zebra") for k in (0, 1)][dropped]
    path.write_bytes(b"broken")
    np.testing.assert_array_equal(
        load("imagefolder", folder, train_samples=2).train_images, data.train_images
    )


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA"])
def test_eight_bit_modes_become_rgb(folder, mode):
    path = folder / "train" / "ant" / "0.png"
    image = Image.fromarray(PIXELS[0]).convert(mode)
    image.save(path)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(load("imagefolder", folder).train_images[0], expected)


def test_sixteen_bits_are_refused(folder):
    path = folder / "train" / "ant" / "1.png"
    Image.fromarray(np.full((32, 32), 40_000, np.uint16)).save(path)
    with pytest.raises(ValueError, match=r"1\.png has pixels of mode 'I;16'"):
        load("imagefolder", folder)


def test_the_first_image_of_another_size_is_named(folder):
    for part, name in (("train", "ant/1.png"), ("train", "zebra/0.png")):
        Image.fromarray(PIXELS[0, :16, :16]).resize((64, 64)).save(folder / part / name)
    with pytest.raises(ValueError, match=r"ant.1\.png is 64x64.*before it are 32x32.*resize"):
        load("imagefolder", folder)


def test_sizes_without_corruptions_are_refused(folder):
    Image.fromarray(PIXELS[0, :, :16]).save(folder / "train" / "ant" / "0.png")
    with pytest.raises(ValueError, match=r"0\.png is 16x32; .*square.*32, 64, 224"):
        load("imagefolder", folder)


def test_test_images_of_another_size_are_refused(folder):
    for label in ("ant", "zebra"):
        Image.fromarray(PIXELS[0]).resize((64, 64)).save(folder / "test" / label / "t.png")
    with pytest.raises(ValueError, match="one size"):
        load("imagefolder", folder)


def test_what_is_no_image_is_named(folder):
    path = folder / "train" / "zebra" / "0.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n")
    with pytest.raises(ValueError, match=r"zebra.0\.png cannot be read"):
        load("imagefolder", folder)
    Image.fromarray(PIXELS[0]).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"zebra.0\.png cannot be decoded"):
        load("imagefolder", folder)


def test_missing_folders_are_named(folder, tmp_path_factory):
    with pytest.raises(ValueError, match=r"no folder train; .*train/CLASS"):
        load("imagefolder", tmp_path_factory.mktemp("empty"))
    (folder / "test").rename(folder / "elsewhere")
    with pytest.raises(ValueError, match="no folder test and no val"):
        load("imagefolder", folder)


def test_classes_must_agree_and_hold_images(folder):
    (folder / "test" / "bee").mkdir()
    with pytest.raises(ValueError, match="bee holds no image"):
        load("imagefolder", folder)
    Image.fromarray(PIXELS[0]).save(folder / "test" / "bee" / "b.png")
    with pytest.raises(ValueError, match=r"only in the first: \[\], only in the second: \['bee'\]"):
        load("imagefolder", folder)
    for path in sorted((folder / "train").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match="train holds no folder"):
        load("imagefolder", folder)
