"""What the two halves of a corruption hand to each other."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.robustness.corruptions._constants import Row

Images = NDArray[np.uint8]
# Random numbers of a batch: arrays whose first axis is the image.
Draws = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class Batch:
    """Images and all that decides what becomes of them.

    Args:
        images: uint8 (N, size, size, 3), RGB, contiguous; never written to.
        constants: Row of the constants' table for the corruption, severity and size.
        textures: Frost pictures, uint8 RGB (height, width, 3); empty for other corruptions.
        draws: Random numbers; empty where the corruption has none or they are not drawn yet.
    """

    images: Images
    constants: Row
    textures: tuple[Images, ...] = ()
    draws: Draws = ()

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return int(self.images.shape[1])


Generators = Iterable[np.random.Generator]
Draw = Callable[[Generators, Batch], Draws]
Apply = Callable[[Batch], Images]


@dataclass(frozen=True)
class Corruption:
    """A corruption in two halves: the random numbers of a batch, and a pure transform.

    Args:
        draw: Takes one generator an image and the batch, gives the draws; a generator must be used
            up before the next one is taken. None where the corruption has no randomness.
        apply: Takes the batch with its draws, gives uint8 of the images' shape.
    """

    draw: Draw | None
    apply: Apply
