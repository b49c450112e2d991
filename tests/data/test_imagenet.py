import shutil
import types

import numpy as np
import pytest

import regrow.data._memory
from regrow.data import load

Image = pytest.importorskip("PIL.Image", reason="image files are read by Pillow")

WNIDS = ("n02124075", "n01443537", "n04067472")  # as in wnids.txt: not sorted
BOX = "0\t0\t62\t62"


def write_picture(path, *, size=(64, 64), seed=0, mode="RGB"):
    """A smooth picture as JPEG; returns it as it is decoded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path, "JPEG")
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def tiny(tmp_path):
    """Three classes of Tiny-ImageNet with two training and two validation images each."""
    root = tmp_path / "tiny-imagenet-200"
    pixels, lines = {}, []
    for number, name in enumerate(WNIDS):
        for image in (0, 1):
            path = f"train/{name}/images/{name}_{image}.JPEG"
            pixels[path] = write_picture(root / path, seed=10 * number + image)
        (root / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t{BOX}\n")
        for image in (5 - number, number):
            path = f"val/images/val_{image}.JPEG"
            pixels[path] = write_picture(root / path, seed=100 + image)
            lines.append(f"val_{image}.JPEG\t{name}\t{BOX}\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("".join(f"{name}\n" for name in WNIDS))
    (root / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\n")
    write_picture(root / "test" / "images" / "test_0.JPEG")
    return types.SimpleNamespace(root=root, pixels=pixels, lines=lines)


def test_tiny_imagenet_by_class_and_file_name(tiny):
    data = load("tiny-imagenet", tiny.root)
    assert data.classes == ("n01443537", "n02124075", "n04067472")
    np.testing.assert_array_equal(data.train_labels, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(data.test_labels, [0, 0, 1, 1, 2, 2])
    names = [f"train/{name}/images/{name}_{i}.JPEG" for name in sorted(WNIDS) for i in (0, 1)]
    np.testing.assert_array_equal(data.train_images, [tiny.pixels[name] for name in names])
    # Of WNIDS in order: images 5 and 0, 4 and 1, 3 and 2.
    names = [f"val/images/val_{i}.JPEG" for i in (1, 4, 0, 5, 2, 3)]
    np.testing.assert_array_equal(data.test_images, [tiny.pixels[name] for name in names])
    assert (data.mean, data.std) == ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))
    assert data.flip is True


def test_the_folder_above_will_do(tiny):
    whole = load("tiny-imagenet", tiny.root).test_images
    np.testing.assert_array_equal(load("tiny-imagenet", tiny.root.parent).test_images, whole)


def test_words_and_test_images_are_not_needed(tiny):
    (tiny.root / "words.txt").unlink()
    shutil.rmtree(tiny.root / "test")
    assert len(load("tiny-imagenet", tiny.root).train_images) == 6


def test_only_files_of_a_subset_are_decoded(tiny):
    part = load("tiny-imagenet", tiny.root, train_samples=3, test_samples=3)
    np.testing.assert_array_equal(part.train_labels, [0, 1, 2])
    kept = {images.tobytes() for images in part.train_images}
    for path, pixels in tiny.pixels.items():
        if path.startswith("train") and pixels.tobytes() not in kept:
            (tiny.root / path).write_bytes(b"broken")
    again = load("tiny-imagenet", tiny.root, train_samples=3, test_samples=3)
    np.testing.assert_array_equal(again.train_images, part.train_images)
    with pytest.raises(ValueError, match="cannot be read as an image"):
        load("tiny-imagenet", tiny.root)


def test_images_of_another_size_are_named(tiny):
    write_picture(tiny.root / "val/images/val_4.JPEG", size=(32, 32))
    with pytest.raises(ValueError, match=r"val_4\.JPEG is 32x32, images of this set are 64x64"):
        load("tiny-imagenet", tiny.root)


@pytest.mark.parametrize("name", ["wnids.txt", "val/val_annotations.txt"])
def test_missing_files_of_tiny_imagenet_are_named(tiny, name):
    (tiny.root / name).unlink()
    with pytest.raises(ValueError, match=rf"holds no {name}; name='tiny-imagenet' needs wnids"):
        load("tiny-imagenet", tiny.root)


def test_a_class_without_training_images(tiny):
    shutil.rmtree(tiny.root / "train" / WNIDS[0])
    with pytest.raises(ValueError, match=rf"{WNIDS[0]}.images holds no image of a class"):
        load("tiny-imagenet", tiny.root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines, "val_9.JPEG\tn02124075\n"], "line 7: image 'val_9.JPEG' is not"),
        (lambda lines: [*lines, lines[0]], r"line 7: image 'val_5.JPEG' is not there \(or named"),
        (lambda lines: ["val_5.JPEG\tn000\n", *lines[1:]], "line 1: class 'n000' is not there"),
        (lambda lines: ["val_5.JPEG n02124075\n", *lines[1:]], "line 1: class '' is not there"),
        (lambda lines: ["../../x.JPEG\tn02124075\n", *lines[1:]], "line 1: image '../../x.JPEG'"),
        (lambda lines: lines[:-1], r"says nothing about 1 images: .*val_2\.JPEG"),
    ],
)
def test_annotations_that_do_not_fit(tiny, change, message):
    text = "".join(change(tiny.lines))
    (tiny.root / "val" / "val_annotations.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"val_annotations\.txt.*{message}"):
        load("tiny-imagenet", tiny.root)


def test_a_class_without_validation_images(tiny):
    lines = [line.replace(WNIDS[2], WNIDS[1]) for line in tiny.lines]
    (tiny.root / "val" / "val_annotations.txt").write_text("".join(lines))
    with pytest.raises(ValueError, match=f"names no image of class {WNIDS[2]}"):
        load("tiny-imagenet", tiny.root)


SHAPES = ((500, 375), (375, 500), (230, 301), (256, 256), (100, 91), (640, 427))


@pytest.fixture
def imagenet(tmp_path):
    """Two classes with images of several sizes."""
    for part, n_images in (("train", 3), ("val", 3)):
        for number, name in enumerate(("n02", "n01")):
            for image in range(n_images):
                path = tmp_path / part / name / f"{part}_{image}.JPEG"
                write_picture(path, size=SHAPES[3 * number + image], seed=7 * number + image)
    return tmp_path


def test_imagenet_is_cut_as_torchvision_does(imagenet):
    transforms = pytest.importorskip(
        "torchvision.transforms", reason="its transforms are the reference"
    )
    cut = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    data = load("imagenet", imagenet)
    assert data.classes == ("n01", "n02")
    for part, images, labels in (
        ("train", data.train_images, data.train_labels),
        ("val", data.test_images, data.test_labels),
    ):
        np.testing.assert_array_equal(labels, [0, 0, 0, 1, 1, 1])
        paths = [imagenet / part / c / f"{part}_{i}.JPEG" for c in data.classes for i in range(3)]
        expected = [np.asarray(cut(Image.open(path))) for path in paths]
        np.testing.assert_array_equal(images, expected)
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_imagenets_odd_files_are_read(imagenet):
    """A few files of ImageNet are grey or CMYK, one is a PNG that is called JPEG."""
    for number, mode in enumerate(("L", "CMYK")):
        write_picture(imagenet / "train/n01" / f"train_{number}.JPEG", size=(300, 300), mode=mode)
    Image.fromarray(np.full((300, 300, 3), 9, np.uint8)).save(
        imagenet / "train/n01/train_2.JPEG", "PNG"
    )
    images = load("imagenet", imagenet).train_images
    assert (images[0][..., 0] == images[0][..., 1]).all()
    assert images[0].std() > 1
    assert images[1].std() > 1
    assert (images[2] == 9).all()


def test_imagenet_folders_that_cannot_be_used_are_refused(imagenet):
    write_picture(imagenet / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(ValueError, match=r"images outside any class.*sort them into train/WNID"):
        load("imagenet", imagenet)
    (imagenet / "val" / "ILSVRC2012_val_00000001.JPEG").unlink()
    write_picture(imagenet / "val" / "n09" / "val_0.JPEG")
    with pytest.raises(ValueError, match=r"same classes.*only in the second: \['n09'\]"):
        load("imagenet", imagenet)
    shutil.rmtree(imagenet / "val")
    with pytest.raises(ValueError, match="holds no folder val; name='imagenet' needs train/WNID"):
        load("imagenet", imagenet)


@pytest.fixture
def little_memory(monkeypatch):
    """A megabyte: six images of 224 pixels."""
    monkeypatch.setattr(regrow.data._memory, "available_memory", lambda: 10**6)


@pytest.mark.usefixtures("little_memory")
def test_more_than_fits_into_memory_is_refused_before_anything_is_decoded(imagenet):
    for path in imagenet.rglob("*.JPEG"):
        path.write_bytes(b"broken")
    message = r"12 images of imagenet take 0\.00181 GB.*0\.001 GB are available.*train_samples"
    with pytest.raises(ValueError, match=message):
        load("imagenet", imagenet)


@pytest.mark.usefixtures("little_memory")
def test_a_subset_that_fits_is_loaded(imagenet):
    assert len(load("imagenet", imagenet, train_samples=3, test_samples=3).train_images) == 3
    with pytest.raises(ValueError, match="7 images of imagenet"):
        load("imagenet", imagenet, train_samples=4, test_samples=3)


def test_memory_of_other_folders_is_counted_too(tiny, monkeypatch):
    monkeypatch.setattr(regrow.data._memory, "available_memory", lambda: 12 * 3 * 64**2 - 1)
    with pytest.raises(ValueError, match=r"12 images of tiny-imagenet take 0\.000147 GB"):
        load("tiny-imagenet", tiny.root)
    monkeypatch.setattr(regrow.data._memory, "available_memory", lambda: 12 * 3 * 64**2)
    assert len(load("tiny-imagenet", tiny.root).train_images) == 6
    images = tiny.root / "train"
    for name in WNIDS:
        for path in (images / name / "images").iterdir():
            path.rename(images / name / path.name)
        shutil.copytree(images / name, tiny.root.parent / "C" / "train" / name)
        shutil.copytree(images / name, tiny.root.parent / "C" / "test" / name)
    monkeypatch.setattr(regrow.data._memory, "available_memory", lambda: 12 * 3 * 64**2 - 1)
    with pytest.raises(ValueError, match="12 images of imagefolder take"):
        load("imagefolder", tiny.root.parent / "C")


@pytest.mark.parametrize(
    ("meminfo", "limit", "expected"),
    [
        ("MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable:   5 kB\n", None, 5 * 1024),
        ("MemAvailable: 5 kB\n", "max\n", 5 * 1024),
        ("MemAvailable: 5 kB\n", "4096\n", 4096),
        ("no such field", "4096\n", 4096),
        (None, "9000\n", 9000),
    ],
)
def test_available_memory(tmp_path, monkeypatch, meminfo, limit, expected):
    for attribute, text in (("_MEMINFO", meminfo), ("_GROUP_LIMIT", limit)):
        path = tmp_path / attribute
        monkeypatch.setattr(regrow.data._memory, attribute, path)
        if text is not None:
            path.write_text(text)
    assert regrow.data._memory.available_memory() == expected


def test_without_knowledge_of_the_memory_nothing_is_refused(imagenet, monkeypatch):
    monkeypatch.setattr(regrow.data._memory, "available_memory", lambda: None)
    assert len(load("imagenet", imagenet).train_images) == 6
