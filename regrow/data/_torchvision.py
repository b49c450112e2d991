"""MNIST, CIFAR-10 and CIFAR-100 in torchvision's own on-disk layouts.

CIFAR's official files are pickles. Reading them is left to torchvision, which unpickles a file
only after its MD5 was found to be that of the official one; regrow itself unpickles nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regrow._optional import require
from regrow.data._split import Source, array_split


@dataclass(frozen=True)
class Layout:
    """Where torchvision keeps a data set.

    Args:
        dataset: Name of the class in ``torchvision.datasets``.
        folder: Folder under ``data_dir``.
        files: The files that must lie there.
        flip: Whether a horizontal flip keeps the label.
        pad: Black pixels to add on each side, to reach 32x32.
    """

    dataset: str
    folder: str
    files: tuple[str, ...]
    flip: bool
    pad: int = 0

    def missing(self, data_dir: Path) -> list[str]:
        """Names of the files that are not there."""
        return [name for name in self.files if not (data_dir / self.folder / name).is_file()]


LAYOUTS = {
    "mnist": Layout(
        dataset="MNIST",
        folder="MNIST/raw",
        files=(
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
        ),
        flip=False,
        pad=2,
    ),
    "cifar10": Layout(
        dataset="CIFAR10",
        folder="cifar-10-batches-py",
        files=(*(f"data_batch_{part}" for part in range(1, 6)), "test_batch", "batches.meta"),
        flip=True,
    ),
    "cifar100": Layout(
        dataset="CIFAR100",
        folder="cifar-100-python",
        files=("train", "test", "meta"),
        flip=True,
    ),
}


def read_torchvision(name: str, data_dir: Path, *, download: bool) -> Source:
    """Read a data set through ``torchvision.datasets``.

    Args:
        name: ``"mnist"``, ``"cifar10"`` or ``"cifar100"``.
        data_dir: Folder that holds, or is to hold, the layout's folder.
        download: Whether torchvision may fetch what is missing.

    Returns:
        The source, in the official order.

    Raises:
        ValueError: The files are there, but not the official ones or damaged.
        OSError: The download failed.
        BackendUnavailableError: torchvision is not installed.
    """
    layout = LAYOUTS[name]
    dataset = getattr(require("torchvision.datasets", extra="robustness"), layout.dataset)
    if download:
        try:
            dataset(data_dir, train=True, download=True)
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"{name} could not be downloaded into {data_dir} ({error}); get the files "
                f"{', '.join(layout.files)} by other means, put them into "
                f"{data_dir / layout.folder} and leave download out"
            ) from error
    try:
        train, test = dataset(data_dir, train=True), dataset(data_dir, train=False)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"{name}: torchvision does not accept the files in {data_dir / layout.folder} "
            f"({error}): they are damaged or not the official ones; remove them and use "
            "download=True (--download), or another data_dir"
        ) from error
    return Source(
        train=array_split(np.asarray(train.data), _labels(train.targets), pad=layout.pad),
        test=array_split(np.asarray(test.data), _labels(test.targets), pad=layout.pad),
        classes=tuple(str(name) for name in train.classes),
        flip=layout.flip,
    )


def _labels(targets: Iterable[int]) -> np.ndarray:
    return np.asarray(targets, dtype=np.int64)
