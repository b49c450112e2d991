"""Image files into arrays: decoded when they are asked for, checked before."""

import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regrow._optional import require
from regrow.data._split import Split

if TYPE_CHECKING:
    from PIL.Image import Image

SIZES = (32, 64, 224)
"""Sides for which the corruptions are defined (Hendrycks and Dietterich 2019)."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
# Formats that Pillow may open, whatever a file's name says: never one that starts a program.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")
# What Pillow's readers raise on damaged files, beside OSError and ValueError.
_DAMAGED = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
# How the field cuts ImageNet for testing (He et al. 2016, and torchvision's references).
_SHORT_SIDE = 256
_CROP = 224

Files = Mapping[str, Sequence[str]]


def list_images(folder: Path) -> list[str]:
    """Paths of the images that lie directly in a folder, sorted by name."""
    return sorted(
        str(path)
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def list_classes(folder: Path, *, layout: str) -> dict[str, list[str]]:
    """Image files of each class, both sorted.

    Args:
        folder: Holds a folder for each class, and that the images.
        layout: What to write into a message.

    Raises:
        ValueError: There is no class, or one without an image.
    """
    classes = sorted(
        entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    files = {}
    for entry in classes:
        files[entry.name] = list_images(entry)
        if not files[entry.name]:
            raise ValueError(
                f"{entry} holds no image ({', '.join(SUFFIXES)}); images must lie directly in "
                f"the folder of their class: {layout}"
            )
    if not files:
        raise ValueError(f"{folder} holds no folder; one for each class is needed: {layout}")
    return files


def check_same_classes(train: Files, test: Files, *, train_dir: Path, test_dir: Path) -> None:
    """Raise ValueError where the two do not have the same classes."""
    if train.keys() != test.keys():
        only_train = sorted(train.keys() - test.keys())
        only_test = sorted(test.keys() - train.keys())
        raise ValueError(
            f"{train_dir} and {test_dir} must have the same classes; only in the first: "
            f"{_some(only_train)}, only in the second: {_some(only_test)}"
        )


def _some(names: list[str]) -> str:
    return f"{names[:5]}" if len(names) <= 5 else f"{names[:5]} and {len(names) - 5} more"


def files_split(files: Files, *, side: int | None = None, cropped: bool = False) -> Split:
    """A split whose images are decoded when they are asked for.

    Args:
        files: Class -> its images, in the order in which the classes are counted.
        side: Height and width that all must have; None: those of the first that is asked for,
            which must be one of ``SIZES``.
        cropped: Whether images may be of any size and are cut to 224x224.
    """
    paths = [path for members in files.values() for path in members]
    counts = [len(members) for members in files.values()]
    labels = np.repeat(np.arange(len(files), dtype=np.int64), counts)

    def chosen(indices: np.ndarray) -> list[Path]:
        return [Path(paths[index]) for index in indices]

    def read(indices: np.ndarray) -> np.ndarray:
        return read_cropped(chosen(indices)) if cropped else read_squares(chosen(indices), side)

    def n_bytes(indices: np.ndarray) -> int:
        known = _CROP if cropped else side or _side(chosen(indices[:1])[0])
        return 3 * known**2 * len(indices)

    return Split(labels, read, n_bytes)


def read_squares(paths: Sequence[Path], side: int | None = None) -> np.ndarray:
    """Decode images of one size, checked in the files' headers before any is decoded.

    Args:
        paths: At least one file.
        side: Height and width; None: those of the first.

    Returns:
        uint8 (N, side, side, 3).

    Raises:
        ValueError: A file is no image, or of another size.
    """
    first = side or _side(paths[0])
    for path in paths:
        _check_side(path, first, given=side is not None)
    images = np.empty((len(paths), first, first, 3), dtype=np.uint8)
    for row, path in enumerate(paths):
        with _open(path) as image:
            images[row] = np.asarray(_in_colour(image, path))
    return images


def read_cropped(paths: Sequence[Path]) -> np.ndarray:
    """Decode images of any size: the short side becomes 256, bilinear, then the middle 224x224.

    The same as torchvision's ``Resize(256)`` and ``CenterCrop(224)`` of a Pillow image.

    Args:
        paths: Files.

    Returns:
        uint8 (N, 224, 224, 3).

    Raises:
        ValueError: A file is no image.
    """
    images = np.empty((len(paths), _CROP, _CROP, 3), dtype=np.uint8)
    for row, path in enumerate(paths):
        with _open(path) as image:
            images[row] = np.asarray(_middle(_in_colour(image, path)))
    return images


def _middle(image: "Image") -> "Image":
    pillow = require("PIL.Image", extra="robustness")
    short, long = min(image.size), max(image.size)
    scaled = int(_SHORT_SIDE * long / short)
    upright = image.width <= image.height
    size = (_SHORT_SIDE, scaled) if upright else (scaled, _SHORT_SIDE)
    resized = image.resize(size, pillow.Resampling.BILINEAR)
    left, top = (round((length - _CROP) / 2) for length in size)
    return resized.crop((left, top, left + _CROP, top + _CROP))


def _in_colour(image: "Image", path: Path) -> "Image":
    if image.mode not in _MODES:
        raise ValueError(
            f"{path} has pixels of mode {image.mode!r}, which does not fit into 8 bits a "
            "channel; convert it to 8-bit RGB or grey"
        )
    try:
        return image.convert("RGB")
    except _DAMAGED as error:
        raise ValueError(f"{path} cannot be decoded ({error}); replace or remove it") from error


def _side(path: Path) -> int:
    with _open(path) as image:
        width, height = image.size
    if width != height or width not in SIZES:
        raise ValueError(
            f"{path} is {width}x{height}; images must be square with a side of "
            f"{', '.join(map(str, SIZES))}, all alike: resize or crop them first"
        )
    return int(width)


def _check_side(path: Path, side: int, *, given: bool) -> None:
    with _open(path) as image:
        width, height = image.size
    if (width, height) != (side, side):
        others = "images of this set" if given else "the images before it"
        raise ValueError(
            f"{path} is {width}x{height}, {others} are {side}x{side}; all images must "
            f"have one size: resize or crop it to {side}x{side}"
        )


def _open(path: Path) -> "Image":
    pillow = require("PIL.Image", extra="robustness")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            image: Image = pillow.open(path, formats=_FORMATS)
    except (*_DAMAGED, pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise ValueError(
            f"{path} cannot be read as an image ({error}); known: {', '.join(_FORMATS)}"
        ) from error
    return image
