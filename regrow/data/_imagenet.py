"""ImageNet (ILSVRC 2012) and Tiny-ImageNet in the layouts in which they are published."""

from pathlib import Path

from regrow.data._files import check_same_classes, files_split, list_classes, list_images
from regrow.data._split import Source

_LAYOUT = "train/WNID/*.JPEG and val/WNID/*.JPEG"
_TINY = "tiny-imagenet-200"
_TINY_SIDE = 64
_TINY_LAYOUT = (
    "wnids.txt, train/WNID/images/*.JPEG, val/images/*.JPEG and val/val_annotations.txt, as in "
    f"{_TINY}.zip"
)


def read_imagenet(data_dir: Path) -> Source:
    """Find ImageNet, or some of its classes, in folders by class.

    Classes are WordNet's identifiers, sorted, as torchvision and published models count them.
    Images are ordered by class, then by file name. Each is cut to the middle 224x224 once its short
    side is 256, training images too; nothing is decoded before it is asked for.

    Args:
        data_dir: Folder that holds ``train/WNID`` and ``val/WNID``.

    Returns:
        The source; ``val`` is its test part, as the labels of the test images are not public.

    Raises:
        ValueError: A folder is missing or empty, or the classes of the two differ.
    """
    train_dir, val_dir = data_dir / "train", data_dir / "val"
    missing = [folder.name for folder in (train_dir, val_dir) if not folder.is_dir()]
    if missing:
        raise ValueError(
            f"data_dir={str(data_dir)!r} holds no folder {' and no '.join(missing)}; "
            f"name='imagenet' needs {_LAYOUT}"
        )
    if list_images(val_dir):
        raise ValueError(
            f"{val_dir} holds images outside any class, as the archive of the validation images "
            "does; which class each belongs to is told by the development kit alone: sort them "
            f"into {_LAYOUT}"
        )
    train, val = list_classes(train_dir, layout=_LAYOUT), list_classes(val_dir, layout=_LAYOUT)
    check_same_classes(train, val, train_dir=train_dir, test_dir=val_dir)
    return Source(
        train=files_split(train, cropped=True),
        test=files_split(val, cropped=True),
        classes=tuple(train),
        flip=True,
    )


def read_tiny_imagenet(data_dir: Path) -> Source:
    """Find Tiny-ImageNet: 200 classes, 500 training and 50 validation images of 64x64 each.

    Classes are WordNet's identifiers, sorted; images are ordered by class, then by file name.

    Args:
        data_dir: The folder ``tiny-imagenet-200`` of the archive, or the one that holds it.

    Returns:
        The source; ``val`` is its test part, as the labels of the test images are not public.

    Raises:
        ValueError: A file is missing, or the annotations do not fit to it.
    """
    root = data_dir / _TINY if (data_dir / _TINY).is_dir() else data_dir
    needed = ("wnids.txt", "train", "val/images", "val/val_annotations.txt")
    missing = [name for name in needed if not (root / name).exists()]
    if missing:
        raise ValueError(
            f"data_dir={str(data_dir)!r} holds no {', '.join(missing)}; name='tiny-imagenet' needs "
            f"{_TINY_LAYOUT}"
        )
    classes = sorted(_lines(root / "wnids.txt"))
    train = {}
    for name in classes:
        folder = root / "train" / name / "images"
        train[name] = list_images(folder) if folder.is_dir() else []
        if not train[name]:
            raise ValueError(f"{folder} holds no image of a class of wnids.txt: {_TINY_LAYOUT}")
    val = _annotated(root / "val", classes)
    return Source(
        train=files_split(train, side=_TINY_SIDE),
        test=files_split(val, side=_TINY_SIDE),
        classes=tuple(classes),
        flip=True,
    )


def _annotated(folder: Path, classes: list[str]) -> dict[str, list[str]]:
    """Validation images of each class, from lines of file name, class and four corners."""
    annotations = folder / "val_annotations.txt"
    there = {Path(path).name: path for path in list_images(folder / "images")}
    files: dict[str, list[str]] = {name: [] for name in classes}
    for number, line in enumerate(_lines(annotations), start=1):
        image, _, rest = line.partition("\t")
        label = rest.partition("\t")[0]
        if label not in files or image not in there:
            what = f"image {image!r}" if label in files else f"class {label!r}"
            raise ValueError(
                f"{annotations}, line {number}: {what} is not there (or named twice); a line is a "
                "file of images, a tab, a class of wnids.txt, and what else follows a tab"
            )
        files[label].append(there.pop(image))
    if there:
        raise ValueError(f"{annotations} says nothing about {len(there)} images: {min(there)}, ...")
    empty = [name for name, members in files.items() if not members]
    if empty:
        raise ValueError(f"{annotations} names no image of class {empty[0]}")
    return {name: sorted(members) for name, members in files.items()}


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text ({error})") from error
    return [line.strip() for line in lines if line.strip()]
