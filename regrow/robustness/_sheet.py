"""A picture of all corruptions of one image."""

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np

from regrow._checks import check_count
from regrow._optional import require
from regrow.robustness._corrupted import image_seeds
from regrow.robustness._pictures import words
from regrow.robustness.corruptions import ALL, available, corrupt_seeded
from regrow.study import image_grid, write_bytes

_SIZES = (224, 64, 32)
_N_ACROSS = 5
# Formats that Pillow may open, whatever a file's name says: never one that starts a program.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM")
# What Pillow's readers raise on damaged files, beside OSError and ValueError.
_DAMAGED = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip


def corruption_sheet(
    image: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    severity: int = 3,
    frost: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Path:
    """Write a picture of an image under every corruption at one severity.

    Args:
        image: A picture file. Its middle square is resized to the largest of 224, 64 and 32
            pixels that does not enlarge it (32 for smaller ones): the sizes for which there are
            constants.
        out: The PNG to write.
        severity: In 1..5. Default 3, the middle.
        frost: Folder with the frost textures; without it frost is left out.
        seed: Of the random corruptions.

    Returns:
        Path of the PNG.

    Raises:
        FileNotFoundError: There is no such picture, or the frost folder lacks textures.
        ValueError: The file is no picture that can be read, or the severity is out of range.
    """
    if check_count(severity, "severity") > 5:
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity}")
    pixels = _square(Path(image))
    seeds = image_seeds(seed, n_images=1)
    kinds = available() if frost is None else ALL
    pictures, titles = [pixels], [f"clean, {len(pixels)} px"]
    for kind in kinds:
        made = corrupt_seeded(pixels[None], kind, severity, seeds=seeds, frost_dir=frost)
        pictures.append(made[0])
        titles.append(words(kind))
    rows = range(0, len(pictures), _N_ACROSS)
    sheet = image_grid(
        [pictures[start : start + _N_ACROSS] for start in rows],
        titles=[titles[start : start + _N_ACROSS] for start in rows],
        inches=2.24 if len(pixels) > 64 else 1.6,
        kind="png",
        dpi=120,
    )
    write_bytes(out, sheet)
    return Path(out)


def _square(path: Path) -> np.ndarray:
    """The middle square of a picture, as uint8 (S, S, 3) of a size that has constants."""
    pil = require("PIL.Image", extra="robustness")
    if not path.is_file():
        raise FileNotFoundError(f"there is no picture {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pil.DecompressionBombWarning)
            with pil.open(path, formats=_FORMATS) as file:
                picture = file.convert("RGB")
    except (*_DAMAGED, pil.DecompressionBombError, pil.DecompressionBombWarning) as error:
        raise ValueError(
            f"{path} cannot be read as a picture ({error or type(error).__name__}); known are "
            f"{', '.join(_FORMATS)}, of up to {pil.MAX_IMAGE_PIXELS:,} pixels"
        ) from error
    side = min(picture.size)
    size = next((size for size in _SIZES if size <= side), _SIZES[-1])
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), pil.Resampling.BICUBIC))
