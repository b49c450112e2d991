"""Image sets as folders: ``train/CLASS/*.png`` and ``test/CLASS/*.png``."""

from pathlib import Path

from regrow.data._files import check_same_classes, files_split, list_classes
from regrow.data._split import Source

_LAYOUT = "train/CLASS/*.png and test/CLASS/*.png (or val/CLASS/*.png)"


def read_image_folder(data_dir: Path) -> Source:
    """Find an image set in ``data_dir/train`` and ``data_dir/test``, or ``data_dir/val``.

    Classes are the names of the folders, sorted; images are ordered by class, then by file name.
    Nothing is decoded before it is asked for, and only what is asked for is held in memory.
    Transparency is dropped.

    Args:
        data_dir: Folder that holds ``train`` and ``test`` or ``val``; ``test`` is taken where both
            are there.

    Returns:
        The source.

    Raises:
        ValueError: A folder is missing or empty, or test and training classes differ.
    """
    train_dir = data_dir / "train"
    candidates = [data_dir / part for part in ("test", "val")]
    test_dir = next((folder for folder in candidates if folder.is_dir()), None)
    if not train_dir.is_dir() or test_dir is None:
        missing = "train" if not train_dir.is_dir() else "test and no val"
        raise ValueError(
            f"data_dir={str(data_dir)!r} holds no folder {missing}; name='imagefolder' needs "
            f"{_LAYOUT}"
        )
    train, test = list_classes(train_dir, layout=_LAYOUT), list_classes(test_dir, layout=_LAYOUT)
    check_same_classes(train, test, train_dir=train_dir, test_dir=test_dir)
    return Source(train=files_split(train), test=files_split(test), classes=tuple(train), flip=True)
