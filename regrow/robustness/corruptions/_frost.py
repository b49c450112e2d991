"""Frost: a crop of a picture of ice laid over the image."""

import os
import struct
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np

from regrow._optional import require
from regrow.robustness.corruptions._types import Batch, Draws, Generators, Images

# The published program draws one of five although it ships six: frost6.jpg is never used.
TEXTURE_NAMES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
_MOST_PIXELS = 10_000_000
"""The published pictures have up to 1.3 million."""
_SCALES = {32: 0.2, 64: 0.3, 224: 1.0}


def missing_textures(frost_dir: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the texture files that the folder lacks."""
    folder = Path(frost_dir)
    return tuple(name for name in TEXTURE_NAMES if not (folder / name).is_file())


# Keyed by the time of change too, so that a replaced file is read again; the arrays are read-only.
@lru_cache(maxsize=3 * len(TEXTURE_NAMES))
def _texture(path: str, changed_ns: int, size: int) -> Images:
    """One texture, scaled for the image size, in RGB."""
    del changed_ns  # only part of the key
    cv2 = require("cv2", extra="robustness")
    _check_size(path)
    try:
        picture = cv2.imread(path, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ValueError(f"frost texture {path} cannot be read as a picture: {error}") from error
    if picture is None:
        raise ValueError(f"frost texture {path} cannot be read as a picture")
    scale = _SCALES[size]
    if scale != 1:
        picture = cv2.resize(picture, (0, 0), fx=scale, fy=scale)
    if min(picture.shape[:2]) <= size:
        raise ValueError(
            f"frost texture {path}, scaled by {scale}, has {picture.shape[0]} x {picture.shape[1]} "
            f"pixels; more than {size} each way are needed"
        )
    texture = np.ascontiguousarray(picture[..., ::-1])
    texture.flags.writeable = False
    return texture


def _check_size(path: str) -> None:
    """Raise ValueError by the header alone where a picture would fill the memory."""
    pillow = require("PIL.Image", extra="robustness")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pillow.DecompressionBombWarning)
            with pillow.open(path, formats=("PNG", "JPEG")) as file:
                width, height = file.size
    except (OSError, ValueError, SyntaxError, struct.error, pillow.DecompressionBombError) as error:
        raise ValueError(f"frost texture {path} cannot be read as a picture: {error}") from error
    if width * height > _MOST_PIXELS:
        raise ValueError(
            f"frost texture {path} has {width} x {height} pixels; {_MOST_PIXELS:,} at most are read"
        )


def load_textures(frost_dir: str | os.PathLike[str] | None, size: int) -> tuple[Images, ...]:
    """The five textures at the scale that belongs to an image size.

    Args:
        frost_dir: Folder with the files of ``TEXTURE_NAMES``.
        size: 32, 64 or 224 pixels.

    Returns:
        Five read-only uint8 RGB arrays (height, width, 3).

    Raises:
        ValueError: No folder given, or a file that is not a picture or is too small.
        FileNotFoundError: Files are missing from the folder.
    """
    wanted = ", ".join(TEXTURE_NAMES)
    if frost_dir is None:
        raise ValueError(
            f"frost needs pictures of ice that regrow does not ship: pass frost_dir, a folder with "
            f"{wanted} (from the repository of Hendrycks and Dietterich), or leave frost out"
        )
    absent = missing_textures(frost_dir)
    if absent:
        raise FileNotFoundError(
            f"frost_dir {os.fspath(frost_dir)!r} lacks {', '.join(absent)}; needed are {wanted}"
        )
    paths = [Path(frost_dir, name).resolve() for name in TEXTURE_NAMES]
    return tuple(_texture(str(path), path.stat().st_mtime_ns, size) for path in paths)


def draw_crop(generators: Generators, batch: Batch) -> Draws:
    """Number of the texture, then row and column of the crop's corner."""
    crops = []
    for generator in generators:
        number = int(generator.integers(len(batch.textures)))
        height, width, _ = batch.textures[number].shape
        row, column = generator.integers((height - batch.size, width - batch.size))
        crops.append((number, row, column))
    return (np.array(crops),)


def frost(batch: Batch) -> Images:
    """Weighted sum of image and texture; constants: the two weights."""
    image_weight, frost_weight = batch.constants
    size = batch.size
    crops = [
        batch.textures[number][row : row + size, column : column + size]
        for number, row, column in batch.draws[0].tolist()
    ]
    values = image_weight * batch.images + frost_weight * np.stack(crops)
    return np.minimum(values, 255, out=values).astype(np.uint8)
