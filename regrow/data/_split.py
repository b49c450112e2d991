"""What every layout is turned into before images are read: labels, and a way to read images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def _in_memory(indices: np.ndarray) -> int:  # noqa: ARG001
    return 0


@dataclass(frozen=True)
class Split:
    """Training or test part of a set.

    Args:
        labels: int64 (N,).
        read: Reads the images at some indices (n,) as uint8 (n, H, W, 3). Only what a study uses
            is decoded, padded or copied.
        n_bytes: Memory that the images at some indices take once they are read; 0 where the whole
            set is in memory already.
    """

    labels: np.ndarray
    read: Callable[[np.ndarray], np.ndarray]
    n_bytes: Callable[[np.ndarray], int] = _in_memory


@dataclass(frozen=True)
class Source:
    """A set whose layout was found and checked.

    Args:
        train: Its training part.
        test: Its test part.
        classes: Names of its classes.
        flip: Whether a horizontal flip keeps the label.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    flip: bool


def array_split(images: np.ndarray, labels: np.ndarray, *, pad: int = 0) -> Split:
    """A split whose images are in memory.

    Args:
        images: uint8, colour (N, H, W, 3), or grey (N, H, W), which is repeated into 3 channels.
        labels: int64 (N,).
        pad: Black pixels added on each of the four sides.

    Returns:
        The split.
    """

    def read(indices: np.ndarray) -> np.ndarray:
        chosen = images[indices]
        if chosen.ndim == 3:
            chosen = np.repeat(chosen[..., None], 3, axis=-1)
        if pad:
            chosen = np.pad(chosen, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        return np.ascontiguousarray(chosen)

    return Split(labels, read)
