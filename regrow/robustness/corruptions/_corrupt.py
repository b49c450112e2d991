"""The public calls: check, draw, transform, a chunk of images at a time."""

import os
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from regrow._checks import check_choice, check_count
from regrow.robustness.corruptions._constants import CONSTANTS, N_SEVERITIES, SIZES
from regrow.robustness.corruptions._frost import load_textures
from regrow.robustness.corruptions._registry import ALL, CORRUPTIONS
from regrow.robustness.corruptions._streams import streams
from regrow.robustness.corruptions._types import Batch, Images

# Values a chunk: ten images of 32 pixels. The temporary arrays then stay in the second-level cache,
# and small enough for the allocator to reuse: larger ones are mapped and cleared afresh each time,
# which doubles the cost of the elastic transform.
_CHUNK = 1 << 15


def _checked(
    images: Images, name: str, severity: int, frost_dir: str | os.PathLike[str] | None
) -> Batch:
    """Check what was passed and look up what belongs to it."""
    check_choice(name, "name", ALL)
    if check_count(severity, "severity") > N_SEVERITIES:
        raise ValueError(f"severity must lie in 1..{N_SEVERITIES}, got {severity}")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        got = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
        raise TypeError(f"images must be a NumPy array of uint8 grey levels 0..255, got {got}")
    shape = images.shape
    if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2] or shape[1] not in SIZES:
        sizes = ", ".join(str(size) for size in SIZES)
        raise ValueError(
            f"images must have shape (N, size, size, 3) with size one of {sizes}, for which there "
            f"are published constants; got {shape}"
        )
    size = shape[1]
    textures = load_textures(frost_dir, size) if name == "frost" else ()
    return Batch(images, CONSTANTS[name][size][severity - 1], textures)


def _corrupted(whole: Batch, name: str, severity: int, seeds: NDArray[np.int64]) -> Images:
    """Corrupt chunk by chunk, so that the memory beside the result is bounded."""
    corruption = CORRUPTIONS[name]
    n_chunk = max(1, _CHUNK // (3 * whole.size**2))
    result = np.empty(whole.images.shape, dtype=np.uint8)
    for start in range(0, len(result), n_chunk):
        chunk = slice(start, start + n_chunk)
        batch = replace(whole, images=np.ascontiguousarray(whole.images[chunk]))
        if corruption.draw is not None:
            draws = corruption.draw(streams(seeds[chunk], name, severity), batch)
            batch = replace(batch, draws=draws)
        result[chunk] = corruption.apply(batch)
    return result


def corrupt_seeded(
    images: Images,
    name: str,
    severity: int,
    *,
    seeds: NDArray[np.int64],
    frost_dir: str | os.PathLike[str] | None = None,
) -> Images:
    """Corrupt images, each with its own seed.

    What happens to an image depends on the image, its seed, the name and the severity, and not on
    the other images of the batch, so a data set can be corrupted in pieces of any size. Equal
    seeds under another name or severity give unrelated random numbers.

    Args:
        images: uint8 (N, size, size, 3), RGB, size 32, 64 or 224; N may be 0. Constants are those
            published for the size.
        name: One of ``ALL``.
        severity: 1 (mildest) to 5.
        seeds: int64 (N,), any values; of no effect on the names in ``DETERMINISTIC``.
        frost_dir: Folder with frost1.png, frost2.png, frost3.png, frost4.jpg and frost5.jpg;
            needed for ``"frost"`` only.

    Returns:
        uint8, same shape; a new array.

    Raises:
        TypeError: Images or seeds of another type, severity not an integer.
        ValueError: Unknown name, severity or size; as many seeds as images are needed; frost
            without a folder.
        FileNotFoundError: The folder lacks textures.

    Source:
        Hendrycks and Dietterich (ICLR 2019). Kept from the programs published with it: results are
        truncated, not rounded; glass blur copies where it means to swap; frost never uses the
        sixth texture; zoom blur has one factor more than its ranges show; the elastic constants
        at 224 pixels are multiples of 244. Different: ImageNet-C and Tiny-ImageNet-C were saved as
        JPEG at quality 85 afterwards, these are not; motion blur computes what ImageMagick does
        without it; spatter leaves an image without drops as it is.
    """
    batch = _checked(images, name, severity, frost_dir)
    if not isinstance(seeds, np.ndarray) or seeds.dtype != np.int64:
        got = seeds.dtype if isinstance(seeds, np.ndarray) else type(seeds).__name__
        raise TypeError(f"seeds must be a NumPy array of int64, got {got}")
    if seeds.shape != (len(images),):
        raise ValueError(
            f"seeds must have shape ({len(images)},), one for each image; got {seeds.shape}"
        )
    return _corrupted(batch, name, severity, seeds)


def corrupt(
    images: Images,
    name: str,
    severity: int,
    *,
    generator: torch.Generator,
    frost_dir: str | os.PathLike[str] | None = None,
) -> Images:
    """Corrupt images, with seeds drawn from a generator.

    Draws one seed an image, in one call and for every name alike, and hands them to
    ``corrupt_seeded``, which says more.

    Args:
        images: uint8 (N, size, size, 3), RGB, size 32, 64 or 224; N may be 0.
        name: One of ``ALL``.
        severity: 1 (mildest) to 5.
        generator: On the CPU; advanced by N draws.
        frost_dir: Folder with the frost textures; needed for ``"frost"`` only.

    Returns:
        uint8, same shape; a new array.

    Raises:
        TypeError: Images or generator of another type, severity not an integer.
        ValueError: Unknown name, severity or size; a generator on another device; frost without a
            folder.
        FileNotFoundError: The folder lacks textures.

    Example:
        >>> import numpy as np, torch
        >>> images = np.full((2, 32, 32, 3), 128, dtype=np.uint8)
        >>> noisy = corrupt(images, "gaussian_noise", 3, generator=torch.Generator().manual_seed(0))
        >>> noisy.shape
        (2, 32, 32, 3)
    """
    batch = _checked(images, name, severity, frost_dir)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if generator.device.type != "cpu":
        raise ValueError(f"generator must be on the CPU, got one on {generator.device}")
    limits = torch.iinfo(torch.int64)
    seeds = torch.randint(limits.min, limits.max, (len(images),), generator=generator)
    return _corrupted(batch, name, severity, seeds.numpy())
