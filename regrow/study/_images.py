"""Images with labels, held as bytes; batches are cut, flipped and normalised on the way out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@final
@dataclass(frozen=True)
class Images:
    """A labelled set of images of one size.

    Args:
        pixels: uint8 (N, H, W, C).
        labels: int64 (N,), classes counted from 0.
        mean: For each channel, what is taken off pixels in [0, 1].
        std: For each channel, what they are then divided by; above 0.
    """

    pixels: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_arrays(
        cls,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        name: str = "images",
    ) -> "Images":
        """Check arrays and wrap them.

        Args:
            images: uint8 (N, H, W, C), N at least 1.
            labels: Integers (N,), at least 0.
            mean: One number a channel; by default the mean of these images.
            std: One number a channel; by default the standard deviation of these images.
            name: What the set is called in messages.

        Raises:
            TypeError: Images are not uint8, or labels no integers.
            ValueError: A shape or a value is not as above.
        """
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            raise TypeError(f"{name} must be a uint8 array, got {_kind(images)}")
        if images.ndim != 4 or not images.size:
            raise ValueError(f"{name} must have shape (N, H, W, C), got {images.shape}")
        if not isinstance(labels, np.ndarray) or not np.issubdtype(labels.dtype, np.integer):
            raise TypeError(f"labels of {name} must be an integer array, got {_kind(labels)}")
        if labels.shape != images.shape[:1] or labels.min() < 0:
            raise ValueError(
                f"labels of {name} must be {len(images)} classes counted from 0, got shape "
                f"{labels.shape} and smallest value {labels.min() if labels.size else None}"
            )
        n_channels = images.shape[-1]
        flat = images.reshape(-1, n_channels)
        if mean is None:
            mean = (flat.mean(axis=0, dtype=np.float64) / 255).tolist()
        if std is None:
            std = (flat.std(axis=0, dtype=np.float64) / 255).tolist()
        if len(mean) != n_channels or len(std) != n_channels or not all(s > 0 for s in std):
            raise ValueError(
                f"mean and std of {name} must be {n_channels} numbers, std above 0; "
                f"got {tuple(mean)} and {tuple(std)}"
            )
        # A memory map or a foreign view may be read-only, which torch warns about.
        pixels = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        classes = torch.from_numpy(labels.astype(np.int64))
        return cls(pixels, classes, tuple(map(float, mean)), tuple(map(float, std)))

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Images":
        """The same set with its tensors on a device."""
        return Images(self.pixels.to(device), self.labels.to(device), self.mean, self.std)

    def first(self, n: int) -> "Images":
        """The first images, at most ``n``, without a copy."""
        return Images(self.pixels[:n], self.labels[:n], self.mean, self.std)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Turn pixels into what the network sees.

        Args:
            pixels: uint8 (B, H, W, C).

        Returns:
            float32 (B, C, H, W), contiguous, on the same device.
        """
        mean = torch.tensor(self.mean, device=pixels.device)
        std = torch.tensor(self.std, device=pixels.device)
        return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def crop_and_flip(
    pixels: Tensor, *, padding: int, flip: bool, generator: torch.Generator
) -> Tensor:
    """Shift each image by a random amount, filling with black, and mirror half of them.

    The usual augmentation of CIFAR (He et al., "Deep residual learning", CVPR 2016, 4.2). Anything
    stronger would change what a network makes of corrupted images, so nothing stronger is here.

    Args:
        pixels: uint8 (B, H, W, C).
        padding: Largest shift in pixels, to every side; 0 for none.
        flip: Whether to mirror left and right with probability 1/2.
        generator: CPU generator; each image draws from it in turn, whatever the device.

    Returns:
        uint8 (B, H, W, C), a new tensor unless there was nothing to do.
    """
    n, height, width, _ = pixels.shape
    device = pixels.device
    if padding:
        shift = torch.randint(2 * padding + 1, (2, n, 1), generator=generator).to(device)
        rows = shift[0] + torch.arange(height, device=device)
        columns = shift[1] + torch.arange(width, device=device)
        padded = F.pad(pixels, (0, 0, padding, padding, padding, padding))
        which = torch.arange(n, device=device)[:, None, None]
        pixels = padded[which, rows[:, :, None], columns[:, None, :]]
    if flip:
        mirrored = torch.rand(n, generator=generator).to(device) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(2), pixels)
    return pixels


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, np.ndarray) else type(value).__name__
