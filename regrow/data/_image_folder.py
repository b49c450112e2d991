"""Image sets as folders: ``train/CLASS/*.png`` and ``test/CLASS/*.png``."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regrow._optional import require
from regrow.data._split import Source, Split

if TYPE_CHECKING:
    from PIL.Image import Image

SIZES = (32, 64, 224)
"""Sides for which the corruptions are defined (Hendrycks and Dietterich 2019)."""

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
# Formats that Pillow may open, whatever a file's name says: never one that starts a program.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_LAYOUT = "train/CLASS/*.png and test/CLASS/*.png (or val/CLASS/*.png)"


def read_image_folder(data_dir: Path) -> Source:
    """Find an image set in ``data_dir/train`` and ``data_dir/test``, or ``data_dir/val``.

    Classes are the names of the folders, sorted; images are ordered by class, then by file name.
    Nothing is decoded before it is asked for, and only what is asked for is held in memory.
    Transparency is dropped.

    Args:
        data_dir: Folder that holds ``train`` and ``test`` or ``val``; ``test`` is taken where both
            are there.

    Returns:
        The source.

    Raises:
        ValueError: A folder is missing or empty, or test and training classes differ.
    """
    train_dir = data_dir / "train"
    candidates = [data_dir / part for part in ("test", "val")]
    test_dir = next((folder for folder in candidates if folder.is_dir()), None)
    if not train_dir.is_dir() or test_dir is None:
        missing = "train" if not train_dir.is_dir() else "test and no val"
        raise ValueError(
            f"data_dir={str(data_dir)!r} holds no folder {missing}; name='imagefolder' needs "
            f"{_LAYOUT}"
        )
    train, test = _list(train_dir), _list(test_dir)
    if train.keys() != test.keys():
        only_train = sorted(train.keys() - test.keys())
        only_test = sorted(test.keys() - train.keys())
        raise ValueError(
            f"{train_dir} and {test_dir} must have the same classes; only in the first: "
            f"{only_train}, only in the second: {only_test}"
        )
    return Source(train=_split(train), test=_split(test), classes=tuple(train), flip=True)


def _list(folder: Path) -> dict[str, list[Path]]:
    """Image files of each class, both sorted."""
    classes = sorted(
        entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    files = {}
    for entry in classes:
        files[entry.name] = sorted(
            path
            for path in entry.iterdir()
            if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
        )
        if not files[entry.name]:
            raise ValueError(
                f"{entry} holds no image ({', '.join(_SUFFIXES)}); images must lie directly in "
                f"the folder of their class: {_LAYOUT}"
            )
    if not files:
        raise ValueError(f"{folder} holds no folder; one for each class is needed: {_LAYOUT}")
    return files


def _split(files: dict[str, list[Path]]) -> Split:
    paths = [path for members in files.values() for path in members]
    counts = [len(members) for members in files.values()]
    labels = np.repeat(np.arange(len(files), dtype=np.int64), counts)

    def read(indices: np.ndarray) -> np.ndarray:
        return _read([paths[index] for index in indices])

    return Split(labels, read)


def _read(paths: list[Path]) -> np.ndarray:
    """Decode images of one size, checked in the files' headers before any is decoded."""
    side = _side(paths[0])
    for path in paths[1:]:
        _check_side(path, side)
    images = np.empty((len(paths), side, side, 3), dtype=np.uint8)
    for row, path in enumerate(paths):
        images[row] = _decode(path)
    return images


def _decode(path: Path) -> np.ndarray:
    with _open(path) as image:
        if image.mode not in _MODES:
            raise ValueError(
                f"{path} has pixels of mode {image.mode!r}, which does not fit into 8 bits a "
                "channel; convert it to 8-bit RGB or grey"
            )
        try:
            return np.asarray(image.convert("RGB"))
        except OSError as error:
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


def _check_side(path: Path, side: int) -> None:
    with _open(path) as image:
        width, height = image.size
    if (width, height) != (side, side):
        raise ValueError(
            f"{path} is {width}x{height}, the images before it are {side}x{side}; all images must "
            f"have one size: resize or crop it to {side}x{side}"
        )


def _open(path: Path) -> "Image":
    pillow = require("PIL.Image", extra="robustness")
    try:
        image: Image = pillow.open(path, formats=_FORMATS)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read as an image ({error}); known: {', '.join(_FORMATS)}"
        ) from error
    return image
