"""One entry to every data set."""

import os
from pathlib import Path

import numpy as np

from regrow._checks import check_choice, check_count
from regrow.data._digits import digits
from regrow.data._image_data import ImageData, Triple, pixel_statistics
from regrow.data._image_folder import read_image_folder
from regrow.data._imagenet import read_imagenet, read_tiny_imagenet
from regrow.data._memory import check_memory
from regrow.data._npz import find_npz, read_npz
from regrow.data._split import Source, Split
from regrow.data._subset import stratified
from regrow.data._torchvision import LAYOUTS, read_torchvision

NAMES = (
    "digits", "mnist", "cifar10", "cifar100", "tiny-imagenet", "imagenet", "imagefolder", "npz",
)  # fmt: skip
"""Data sets that :func:`load` knows."""

# The constants that the codes of the field use (specification of the robustness study, section 3);
# CIFAR-10's std is the mean over images of each image's own, hence below that of all pixels.
_NORMALISATION: dict[str, tuple[Triple, Triple]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny-imagenet": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_FOLDERS = {
    "imagefolder": read_image_folder,
    "imagenet": read_imagenet,
    "tiny-imagenet": read_tiny_imagenet,
}


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    train_samples: int | None = None,
    test_samples: int | None = None,
) -> ImageData:
    """Load an image set from a standard layout into memory.

    Args:
        name: One of :data:`NAMES`.

            - ``"digits"``: scikit-learn's handwritten digits enlarged to 32x32, no files needed.
            - ``"mnist"``, ``"cifar10"``, ``"cifar100"``: torchvision's layout in ``data_dir``
              (``MNIST/raw``, ``cifar-10-batches-py``, ``cifar-100-python``), or else
              ``data_dir/NAME.npz``. MNIST is padded to 32x32. The CIFAR files are pickles, read
              by torchvision after it has checked their MD5.
            - ``"npz"``: ``data_dir`` is one ``.npz`` file, or a folder that holds exactly one,
              with ``train_images``, ``train_labels``, ``test_images``, ``test_labels`` and, if
              wanted, ``classes`` and ``flip`` (without it: False).
            - ``"imagefolder"``: ``data_dir/train/CLASS/*`` and ``data_dir/test/CLASS/*`` or
              ``data_dir/val/CLASS/*``; square images of one size, 32, 64 or 224.
            - ``"tiny-imagenet"``: ``data_dir`` is the folder ``tiny-imagenet-200`` or holds it.
              The validation images are the test images, ordered by class.
            - ``"imagenet"``: ``data_dir/train/WNID/*`` and ``data_dir/val/WNID/*``, all classes
              or some. Images of any size: the short side becomes 256, bilinear, and the middle
              224x224 is kept, of training images too (the field's random crops of training images
              are not made). 150 kB an image in memory: training on all 1.28 million needs 193 GB.

            Images are held in memory as bytes, those of a subset only.
        data_dir: Where the files are; only ``"digits"`` has none.
        download: Whether torchvision may fetch ``"mnist"``, ``"cifar10"`` or ``"cifar100"``.
        train_samples: Size of a stratified subset of the training images, the same in every
            study; None: all. Subsets keep the order of the whole.
        test_samples: The same for the test images; ``test_indices`` then tells which.

    Returns:
        The images, grey ones repeated into three channels. ``mean`` and ``std`` are the field's
        constants for CIFAR and (Tiny-)ImageNet, otherwise those of the training images returned.

    Raises:
        TypeError: A sample count is no integer.
        ValueError: An unknown name, missing or malformed files, a subset larger than the set,
            more images than fit into the memory available, or an argument that the data set
            cannot use.
        OSError: A download failed.
        BackendUnavailableError: An optional package is missing.

    Example:
        >>> load("digits", train_samples=100).train_images.shape
        (100, 32, 32, 3)
    """
    check_choice(name, "name", NAMES)
    for count, argument in ((train_samples, "train_samples"), (test_samples, "test_samples")):
        if count is not None:
            check_count(count, argument)
    if download and name not in LAYOUTS:
        raise ValueError(
            f"download=True works with name in {', '.join(LAYOUTS)}; {name!r} has nothing to "
            "download, leave it out"
        )
    source = _find(name, data_dir, download=download)
    train = _choose(source.train, train_samples, f"{name} train")
    test = _choose(source.test, test_samples, f"{name} test")
    n_bytes = source.train.n_bytes(train) + source.test.n_bytes(test)
    check_memory(n_bytes, name=name, n_images=len(train) + len(test))
    train_images = source.train.read(train)
    mean, std = _NORMALISATION.get(name) or pixel_statistics(train_images)
    return ImageData(
        name=name,
        train_images=train_images,
        train_labels=source.train.labels[train],
        test_images=source.test.read(test),
        test_labels=source.test.labels[test],
        classes=source.classes,
        mean=mean,
        std=std,
        flip=source.flip,
        test_indices=test,
    )


def _choose(split: Split, n_samples: int | None, name: str) -> np.ndarray:
    if n_samples is None:
        return np.arange(len(split.labels), dtype=np.int64)
    return stratified(split.labels, n_samples, name=name)


def _find(name: str, data_dir: str | os.PathLike[str] | None, *, download: bool) -> Source:
    if name == "digits":
        if data_dir is not None:
            raise ValueError(
                f"data_dir={os.fspath(data_dir)!r} has no use with name='digits', which comes "
                "with scikit-learn; leave it out"
            )
        return digits()
    if data_dir is None:
        raise ValueError(f"data_dir is needed for name={name!r}: where its files are")
    folder = Path(data_dir)
    if name == "npz":
        return read_npz(find_npz(folder), flip=False)
    if name in _FOLDERS:
        return _FOLDERS[name](folder)
    return _find_official(name, folder, download=download)


def _find_official(name: str, data_dir: Path, *, download: bool) -> Source:
    """Read torchvision's layout if it is complete, or else ``NAME.npz``, or else a download."""
    layout = LAYOUTS[name]
    missing = layout.missing(data_dir)
    npz = data_dir / f"{name}.npz"
    if not missing:
        return read_torchvision(name, data_dir, download=False)
    if npz.is_file():
        return read_npz(npz, flip=layout.flip, mnist=name == "mnist")
    if download:
        return read_torchvision(name, data_dir, download=True)
    raise ValueError(
        f"{name} was not found in data_dir={str(data_dir)!r}: looked for torchvision's layout, "
        f"{data_dir / layout.folder} with {', '.join(layout.files)} (missing: "
        f"{', '.join(missing)}), and for {npz}; use download=True (--download) to fetch it, or "
        "give the folder that holds it"
    )
