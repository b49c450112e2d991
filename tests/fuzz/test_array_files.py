"""Arrays and pictures cut short, with bits flipped, or with lies in them: one clear error."""

import io
import tracemalloc

import numpy as np
import pytest
from damage import LIES, damaged, damages, npy, npz, read_or_refuse
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.data import open_array, read_arrays
from regrow.robustness import corruption_sheet
from regrow.robustness._corrupted import GeneratedSets
from regrow.robustness._examples import read_examples
from regrow.robustness.corruptions._frost import load_textures
from regrow.study import write_array, write_arrays


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie(folder, lie):
    path = folder / "lie.npz"
    path.write_bytes(npz({"a": LIES[lie]}))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"lie\.npz"):
        read_arrays(path)
    path = folder / "lie.npy"
    path.write_bytes(LIES[lie])
    with pytest.raises(ValueError, match=r"lie\.npy"):
        open_array(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000


def test_a_bomb_is_refused_before_it_is_unpacked(folder):
    path = folder / "bomb" / "examples.npz"
    path.parent.mkdir()
    path.write_bytes(npz({"clean-0": npy((200_000_000,), content=bytes(200_000_000))}))
    assert path.stat().st_size < 10**6
    with pytest.raises(ValueError, match=r"examples\.npz is damaged.*2000\d* bytes"):
        read_examples(path.parent)


@settings(max_examples=120)
@given(changes=damages)
def test_damaged_archives(folder, changes):
    whole = folder / "whole.npz"
    if not whole.exists():
        random = np.random.default_rng(0)
        write_arrays(whole, {"clean-0": random.integers(0, 9, (8, 8, 3)).astype(np.uint8),
                             "fog-1": np.zeros((8, 8, 3), dtype=np.uint8)})  # fmt: skip
    path = folder / "damaged" / "examples.npz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(damaged(whole.read_bytes(), changes))
    found = read_or_refuse(lambda: read_examples(path.parent), "examples.npz")
    assert found is None or all(image.dtype == np.uint8 for image in found.values())


@settings(max_examples=80)
@given(changes=damages)
def test_damaged_sets_of_corrupted_images(folder, changes):
    clean = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    sets = GeneratedSets(clean, folder / "corrupted")
    path = folder / "corrupted" / "seed0" / "fog-1.npy"
    write_array(path, clean)
    path.write_bytes(damaged(path.read_bytes(), changes))
    images = read_or_refuse(lambda: sets.images(0, "fog", 1), path.name)
    assert images is None or (images.shape == clean.shape and images.dtype == np.uint8)


def picture(kind):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@settings(max_examples=150)
@given(changes=damages, kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF"]))
def test_damaged_pictures(folder, changes, kind):
    from regrow.robustness._sheet import _square

    path = folder / "picture"
    path.write_bytes(damaged(picture(kind), changes))
    square = read_or_refuse(lambda: _square(path), path.name)
    assert square is None or square.shape in ((32, 32, 3), (64, 64, 3), (224, 224, 3))


def test_pictures_that_start_a_program_or_fill_the_memory(folder):
    from PIL import Image

    path = folder / "picture.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n")
    with pytest.raises(ValueError, match=r"picture\.png cannot be read as a picture"):
        corruption_sheet(path, out=folder / "sheet.png")
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(ValueError, match=r"picture\.png cannot be read as a picture"):
        corruption_sheet(path, out=folder / "sheet.png")
    assert not (folder / "sheet.png").exists()


@settings(max_examples=60)
@given(changes=damages, kind=st.sampled_from(["PNG", "JPEG"]))
def test_damaged_frost(folder, changes, kind):
    from PIL import Image

    frost = folder / "frost"
    frost.mkdir(exist_ok=True)
    names = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
    if not (frost / names[-1]).exists():
        for name in names:
            Image.new("RGB", (200, 200)).save(frost / name)
    buffer = io.BytesIO()
    Image.new("RGB", (200, 200), (9, 9, 9)).save(buffer, kind)
    (frost / names[0]).write_bytes(damaged(buffer.getvalue(), changes))
    textures = read_or_refuse(lambda: load_textures(frost, 32), names[0])
    assert textures is None or len(textures) == 5


def test_frost_that_fills_the_memory(folder):
    from PIL import Image

    frost = folder / "huge"
    frost.mkdir()
    for name in ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg"):
        Image.new("1", (9_000, 9_000)).convert("L").save(frost / name)
    with pytest.raises(ValueError, match=r"frost1\.png has 9000 x 9000 pixels"):
        load_textures(frost, 32)
