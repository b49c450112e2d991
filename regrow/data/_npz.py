"""Image sets in one ``.npz`` file."""

from pathlib import Path

import numpy as np

from regrow.data._arrays import read_arrays
from regrow.data._memory import available_memory
from regrow.data._split import Source, array_split

_REQUIRED = ("train_images", "train_labels", "test_images", "test_labels")
_OPTIONAL = ("classes", "flip")
_LAYOUT = (
    "train_images and test_images, uint8 (N, H, W, 3) or grey (N, H, W); train_labels and "
    "test_labels, integers (N,); if wanted classes, one text a class, and flip, True or False"
)


def find_npz(path: Path) -> Path:
    """The ``.npz`` file that ``path`` is, or the only one in the folder that it is.

    Raises:
        ValueError: There is none, or a folder holds several.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(
            f"data_dir={str(path)!r} does not exist; name='npz' needs the path of one .npz file "
            f"with {_LAYOUT}"
        )
    files = sorted(path.glob("*.npz"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise ValueError(
            f"data_dir={str(path)!r} must hold exactly one .npz file, found: {found}; "
            "give the path of the file instead"
        )
    return files[0]


def read_npz(path: Path, *, flip: bool, mnist: bool = False) -> Source:
    """Read an image set from a ``.npz`` file; nothing is ever unpickled.

    Args:
        path: A file with ``train_images``, ``train_labels``, ``test_images``, ``test_labels``;
            labels may also have shape (N, 1). Without ``classes`` the classes are numbered up to
            the largest label.
        flip: Whether a horizontal flip keeps the label, where the file has no ``flip``.
        mnist: Pad images of 28x28 to 32x32.

    Returns:
        The source.

    Raises:
        ValueError: The file cannot be read, lacks an array, or one has a wrong shape or dtype.
    """
    arrays = _arrays(path)
    images = {part: _images(arrays, f"{part}_images", path) for part in ("train", "test")}
    labels = {part: _labels(arrays, f"{part}_labels", path) for part in ("train", "test")}
    for part in ("train", "test"):
        if len(images[part]) != len(labels[part]):
            raise ValueError(
                f"{path}: {len(images[part])} {part}_images, but {len(labels[part])} "
                f"{part}_labels; one label an image is needed"
            )
    padded = mnist and images["train"].shape[1:3] == (28, 28)
    return Source(
        train=array_split(images["train"], labels["train"], pad=2 if padded else 0),
        test=array_split(images["test"], labels["test"], pad=2 if padded else 0),
        classes=_classes(arrays, labels, path),
        flip=_flip(arrays, path, otherwise=flip),
    )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the file that have a meaning here; others are not even read."""
    try:
        arrays = read_arrays(path, names=(*_REQUIRED, *_OPTIONAL), most_bytes=available_memory())
    except ValueError as error:
        raise ValueError(
            f"{error}; write it with numpy.savez, without arrays of Python objects"
        ) from error
    missing = [key for key in _REQUIRED if key not in arrays]
    if missing:
        found = ", ".join(arrays) or "nothing of that"
        raise ValueError(
            f"{path} lacks {', '.join(missing)}; it holds {found}; expected: {_LAYOUT}"
        )
    return arrays


def _images(arrays: dict[str, np.ndarray], key: str, path: Path) -> np.ndarray:
    images = arrays[key]
    if images.dtype != np.uint8:
        raise ValueError(f"{path}: {key} must be uint8 in 0..255, got dtype {images.dtype}")
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] != 3):
        raise ValueError(
            f"{path}: {key} must have shape (N, H, W, 3), or (N, H, W) for grey, got {images.shape}"
        )
    return images


def _labels(arrays: dict[str, np.ndarray], key: str, path: Path) -> np.ndarray:
    labels = arrays[key]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: {key} must be integers of shape (N,), got dtype {labels.dtype}, "
            f"shape {labels.shape}"
        )
    if not len(labels):
        raise ValueError(f"{path}: {key} is empty")
    return labels.astype(np.int64)


def _classes(
    arrays: dict[str, np.ndarray], labels: dict[str, np.ndarray], path: Path
) -> tuple[str, ...]:
    if "classes" not in arrays:
        n_classes = 1 + max(int(labels["train"].max()), int(labels["test"].max()))
        if n_classes > len(labels["train"]):
            raise ValueError(
                f"{path}: labels reach {n_classes - 1} with {len(labels['train'])} training "
                "images; labels must count the classes from 0"
            )
        return tuple(str(label) for label in range(n_classes))
    classes = arrays["classes"]
    if classes.ndim != 1 or classes.dtype.kind != "U":
        raise ValueError(
            f"{path}: classes must be texts of shape (n_classes,), got dtype {classes.dtype}, "
            f"shape {classes.shape}"
        )
    return tuple(str(name) for name in classes)


def _flip(arrays: dict[str, np.ndarray], path: Path, *, otherwise: bool) -> bool:
    if "flip" not in arrays:
        return otherwise
    flip = arrays["flip"]
    if flip.dtype != np.bool_ or flip.size != 1:
        raise ValueError(f"{path}: flip must be one True or False, got {flip!r}")
    return bool(flip.item())
