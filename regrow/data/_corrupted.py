"""Published corrupted test sets in the layouts of CIFAR-10-C and of ImageNet-C.

The former: one ``CORRUPTION.npy`` for each kind, uint8 (5 n, H, W, 3), severity s in rows (s-1) n
to s n, and ``labels.npy`` with the n test labels five times. The latter, also that of
Tiny-ImageNet-C: ``CORRUPTION/SEVERITY/CLASS/*.JPEG`` (Hendrycks and Dietterich 2019).
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from regrow._checks import check_choice, check_count
from regrow.data._arrays import open_array
from regrow.data._corrupted_folder import LAYOUT, ClassFolders, folder_kinds, read_class_folders
from regrow.data._image_data import ImageData

N_SEVERITIES = 5

T = TypeVar("T", str, int)


@dataclass(frozen=True, eq=False)
class CorruptedImages:
    """Corrupted copies of the test images of one data set; made by :func:`read_corrupted`.

    Iterating yields ``(kind, severity, images)``, kind by kind.

    Args:
        folder: Where the files are.
        kinds: The corruptions asked for, in the order asked for.
        severities: The severities asked for, in the order asked for.
        n_published: Number of images at each severity.
        indices: int64 (M,), rows of the data set's test images among the published ones.
        files: The layout of ImageNet-C; None: that of CIFAR-10-C.
    """

    folder: Path
    kinds: tuple[str, ...]
    severities: tuple[int, ...]
    n_published: int
    indices: np.ndarray
    files: ClassFolders | None = None

    def images(self, kind: str, severity: int) -> np.ndarray:
        """Read the images of one corruption at one severity.

        Args:
            kind: One of ``kinds``.
            severity: One of ``severities``.

        Returns:
            uint8 (M, H, W, 3), in the order of the data set's ``test_images``; a copy in memory.

        Raises:
            ValueError: Not one of those asked for, or files that are not as the others.
        """
        check_choice(kind, "kind", self.kinds)
        if severity not in self.severities:
            raise ValueError(f"severity must be one of {self.severities}, got {severity!r}")
        if self.files is not None:
            return self.files.read(kind, severity, self.indices)
        stored = open_array(self.folder / f"{kind}.npy")
        first = (severity - 1) * self.n_published
        # Indexing by an array copies: what comes out is in memory and writable.
        images: np.ndarray = stored[first : first + self.n_published][self.indices]
        return images

    def __iter__(self) -> Iterator[tuple[str, int, np.ndarray]]:
        for kind in self.kinds:
            for severity in self.severities:
                yield kind, severity, self.images(kind, severity)


def available_kinds(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the corruptions that a folder in the layout of CIFAR-10-C or ImageNet-C holds.

    Args:
        folder: Folder with ``labels.npy`` and one ``.npy`` file for each corruption, or with a
            folder for each corruption that holds one for each severity.

    Returns:
        The files' names without ``.npy``, ``labels`` left out, or the folders' names; sorted.

    Raises:
        ValueError: There is no such folder, or it is in neither layout.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"folder={str(path)!r} is not a folder; {_layout()}")
    names = sorted(file.stem for file in path.glob("*.npy"))
    kinds = tuple(name for name in names if name != "labels")
    if not names and (folders := folder_kinds(path)):
        return folders
    if len(kinds) == len(names) or not kinds:
        lacks = "labels.npy" if kinds else ".npy file of a corruption"
        raise ValueError(f"folder={str(path)!r} has no {lacks}; {_layout()}")
    return kinds


def read_corrupted(
    folder: str | os.PathLike[str],
    data: ImageData,
    *,
    kinds: Sequence[str] | None = None,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
) -> CorruptedImages:
    """Open a published corrupted test set, such as CIFAR-10-C, for a data set.

    All headers and all labels are checked here, of ImageNet-C's layout the folders; images are read
    when they are asked for, so that no more than one kind at one severity is ever in memory.

    Images are paired with the clean ones by class and order. Those of Tiny-ImageNet-C are other
    photographs of the same classes than Tiny-ImageNet's validation images, as published.

    Args:
        folder: Folder in the layout of CIFAR-10-C: ``labels.npy`` and one ``.npy`` file for each
            corruption, or of ImageNet-C: ``CORRUPTION/SEVERITY/CLASS/*.JPEG``, where classes that
            ``data`` does not have are left aside. Nothing is unpickled.
        data: The clean data. Its ``test_indices`` choose the rows; the published labels there
            must be its ``test_labels``, or the two are not the same images in the same order.
        kinds: Names of corruptions; None: all in the folder.
        severities: Different integers from 1 to 5.

    Returns:
        The images, by ``images(kind, severity)`` or by iterating.

    Raises:
        TypeError: A severity is no integer.
        ValueError: A kind or severity does not exist, a file does not have the layout, or the
            labels differ.
    """
    known = available_kinds(folder)
    chosen = known if kinds is None else _different(kinds, "kinds")
    for kind in chosen:
        check_choice(kind, "kinds", known)
    levels = _different(severities, "severities")
    for severity in levels:
        if check_count(severity, "severities") > N_SEVERITIES:
            raise ValueError(f"severities must lie in 1..{N_SEVERITIES}, got {severity}")
    path = Path(folder)
    if not (path / "labels.npy").exists():
        files, published = read_class_folders(path, data, kinds=chosen, severities=levels)
        n_published = _check_same(published, data, path)
        return CorruptedImages(path, chosen, levels, n_published, data.test_indices, files)
    n_published = _check_labels(path / "labels.npy", data)
    shape = (N_SEVERITIES * n_published, *data.test_images.shape[1:])
    for kind in chosen:
        stored = open_array(path / f"{kind}.npy")
        if stored.dtype != np.uint8 or stored.shape != shape:
            raise ValueError(
                f"{path / kind}.npy must be uint8 of shape {shape} ({N_SEVERITIES} severities of "
                f"{n_published} images as large as those of {data.name!r}), got {stored.dtype} of "
                f"shape {stored.shape}"
            )
    return CorruptedImages(path, chosen, levels, n_published, data.test_indices)


def _different(values: Sequence[T], argument: str) -> tuple[T, ...]:
    if isinstance(values, str) or not values:
        raise ValueError(f"{argument} must be a sequence that is not empty, got {values!r}")
    if len(set(values)) < len(values):
        raise ValueError(f"{argument} must not name one thing twice, got {values!r}")
    return tuple(values)


def _check_labels(path: Path, data: ImageData) -> int:
    """Number of published images a severity, once the labels are known to be those of ``data``."""
    labels = open_array(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) % N_SEVERITIES:
        raise ValueError(
            f"{path} must hold integers of shape ({N_SEVERITIES} n,), got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    by_severity = np.asarray(labels).reshape(N_SEVERITIES, -1)
    if (by_severity != by_severity[0]).any():
        raise ValueError(f"{path} must repeat the same labels {N_SEVERITIES} times; {_layout()}")
    return _check_same(by_severity[0], data, path)


def _check_same(published: np.ndarray, data: ImageData, path: Path) -> int:
    """Number of published labels, once they are known to be those of ``data``."""
    if data.test_indices.max() >= len(published):
        raise ValueError(
            f"{path} has labels of {len(published)} images, but test image number "
            f"{data.test_indices.max()} of {data.name!r} was asked for; it must be a corrupted "
            "copy of the whole test set"
        )
    n_wrong = int((published[data.test_indices] != data.test_labels).sum())
    if n_wrong:
        raise ValueError(
            f"{path} differs from the labels of {data.name!r} at {n_wrong} of "
            f"{len(data.test_labels)} test images: not the same images in the same order; "
            "use the data set that the folder was made from, in its official order"
        )
    return len(published)


def _layout() -> str:
    return (
        "needed is the layout of CIFAR-10-C: labels.npy, and for each corruption one .npy file, "
        f"uint8 of shape ({N_SEVERITIES} n, H, W, 3); or that of ImageNet-C: {LAYOUT}"
    )
