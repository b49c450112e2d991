"""The one form in which every study sees its images."""

import hashlib
import math
from dataclasses import dataclass, field

import numpy as np

Triple = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class ImageData:
    """Training and test images of one data set, checked when it is made.

    ``dataclasses.replace`` changes a field, such as ``flip`` of a set read from an ``.npz`` file.

    Args:
        name: Name of the set, for reports.
        train_images: uint8 (N, H, W, 3), red first, N at least 1.
        train_labels: int64 (N,), each in 0..len(classes)-1.
        test_images: uint8 (M, H, W, 3), of the training images' size, M at least 1.
        test_labels: int64 (M,), each in 0..len(classes)-1.
        classes: Names of the classes, at least two, no two alike.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel, of pixels in [0, 1], above 0.
        flip: Whether a horizontal flip keeps the label (not so for digits).
        test_indices: int64 (M,), where each test image stands in the whole test set: tells which
            rows of a published corrupted copy belong to a subset. Left out: all in order.

    Raises:
        TypeError: An array, a name or a flag is of another type than stated.
        ValueError: Shapes, labels or numbers do not fit together; the message says which.
    """

    name: str
    train_images: np.ndarray = field(repr=False)
    train_labels: np.ndarray = field(repr=False)
    test_images: np.ndarray = field(repr=False)
    test_labels: np.ndarray = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    mean: Triple
    std: Triple
    flip: bool
    # An empty array stands for "all in order": no valid test set is empty.
    test_indices: np.ndarray = field(
        repr=False, default_factory=lambda: np.empty(0, dtype=np.int64)
    )

    def __post_init__(self) -> None:
        _check_names(self.name, self.classes)
        _check_images(self.train_images, "train_images")
        _check_images(self.test_images, "test_images")
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise ValueError(
                f"train_images and test_images must have one size, got "
                f"{self.train_images.shape[1:]} and {self.test_images.shape[1:]}"
            )
        n_classes = len(self.classes)
        _check_labels(self.train_labels, "train_labels", len(self.train_images), n_classes)
        _check_labels(self.test_labels, "test_labels", len(self.test_images), n_classes)
        _check_triple(self.mean, "mean")
        _check_triple(self.std, "std")
        if min(self.std) <= 0:
            raise ValueError(
                f"std must be above 0 in every channel, got {self.std}: a channel that never "
                "varies cannot be normalised; give std=(1.0, 1.0, 1.0) if that is meant"
            )
        if not isinstance(self.flip, bool):
            raise TypeError(f"flip must be True or False, got {self.flip!r}")
        if isinstance(self.test_indices, np.ndarray) and self.test_indices.size == 0:
            indices = np.arange(len(self.test_images), dtype=np.int64)
            object.__setattr__(self, "test_indices", indices)
        _check_indices(self.test_indices, len(self.test_images))

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)


def checksum(images: np.ndarray) -> str:
    """SHA-256 of an array's shape, dtype and bytes.

    Args:
        images: Any array of numbers or booleans. Its memory layout does not matter: a transposed
            view and its contiguous copy have one checksum.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: Not an array, or an array of Python objects.

    Example:
        >>> checksum(np.zeros((2, 2), np.uint8)) == checksum(np.zeros(4, np.uint8))
        False
    """
    if not isinstance(images, np.ndarray):
        raise TypeError(f"images must be a numpy array, got {type(images).__name__}")
    if images.dtype.hasobject:
        raise TypeError(f"images must hold numbers, got dtype {images.dtype}")
    digest = hashlib.sha256(f"{images.shape} {images.dtype.str} ".encode())
    # uint8 view: hashlib takes no memoryview of every dtype, and no bytes are copied.
    digest.update(np.ascontiguousarray(images).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def pixel_statistics(images: np.ndarray, *, rows: int = 1024) -> tuple[Triple, Triple]:
    """Mean and population standard deviation of each channel, of pixels in [0, 1].

    Summed in integers, so that the result does not depend on the order of the images or on the
    machine.

    Args:
        images: uint8 (N, H, W, 3).
        rows: Images looked at in one go, which bounds the memory used.

    Returns:
        Mean and standard deviation, three floats each.
    """
    counts = np.zeros((3, 256), dtype=np.int64)
    for start in range(0, len(images), rows):
        part = images[start : start + rows]
        for channel in range(3):
            counts[channel] += np.bincount(part[..., channel].ravel(), minlength=256)
    red, green, blue = (_moments([int(count) for count in channel]) for channel in counts)
    return (red[0], green[0], blue[0]), (red[1], green[1], blue[1])


def _moments(counts: list[int]) -> tuple[float, float]:
    """Mean and standard deviation of value/255, from how often each value occurs."""
    n = sum(counts)
    total = sum(value * count for value, count in enumerate(counts))
    squares = sum(value**2 * count for value, count in enumerate(counts))
    return total / (255 * n), math.sqrt((n * squares - total**2) / (255 * n) ** 2)


def _check_names(name: object, classes: object) -> None:
    if not isinstance(name, str) or not name:
        raise TypeError(f"name must be a text that is not empty, got {name!r}")
    if not isinstance(classes, tuple) or not all(isinstance(c, str) for c in classes):
        raise TypeError(f"classes must be a tuple of texts, got {classes!r}")
    if len(classes) < 2:
        raise ValueError(f"classes must name at least two classes, got {classes!r}")
    if len(set(classes)) < len(classes):
        twice = sorted({c for c in classes if classes.count(c) > 1})
        raise ValueError(f"classes must differ from each other, got {twice} more than once")


def _check_images(images: object, argument: str) -> None:
    if not isinstance(images, np.ndarray):
        raise TypeError(f"{argument} must be a numpy array, got {type(images).__name__}")
    if images.dtype != np.uint8:
        raise TypeError(f"{argument} must be uint8 in 0..255, got dtype {images.dtype}")
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise ValueError(
            f"{argument} must have shape (N, H, W, 3), none of them 0, got {images.shape}"
        )


def _check_labels(labels: object, argument: str, n_images: int, n_classes: int) -> None:
    if not isinstance(labels, np.ndarray) or labels.dtype != np.int64:
        got = getattr(labels, "dtype", type(labels).__name__)
        raise TypeError(f"{argument} must be an int64 numpy array, got {got}")
    if labels.shape != (n_images,):
        raise ValueError(
            f"{argument} must have shape ({n_images},), one an image, got {labels.shape}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= n_classes:
        raise ValueError(
            f"{argument} must lie in 0..{n_classes - 1} ({n_classes} classes), got {low}..{high}"
        )


def _check_triple(values: object, argument: str) -> None:
    if (
        not isinstance(values, tuple)
        or len(values) != 3
        or not all(isinstance(v, float) and math.isfinite(v) for v in values)
    ):
        raise TypeError(f"{argument} must be a tuple of three finite floats, got {values!r}")


def _check_indices(indices: object, n_images: int) -> None:
    if not isinstance(indices, np.ndarray) or indices.dtype != np.int64:
        got = getattr(indices, "dtype", type(indices).__name__)
        raise TypeError(f"test_indices must be an int64 numpy array, got {got}")
    if indices.shape != (n_images,):
        raise ValueError(
            f"test_indices must have shape ({n_images},), one a test image, got {indices.shape}"
        )
    if indices.min() < 0 or len(np.unique(indices)) < n_images:
        raise ValueError("test_indices must be different and not negative")
