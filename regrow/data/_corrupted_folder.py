"""Published corrupted test sets in the layout of ImageNet-C: ``TYPE/SEVERITY/CLASS/*.JPEG``."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regrow.data._files import list_classes, read_squares
from regrow.data._image_data import ImageData
from regrow.data._memory import check_memory

LAYOUT = "TYPE/SEVERITY/CLASS/*.JPEG, severities 1 to 5"


@dataclass(frozen=True, eq=False)
class ClassFolders:
    """What every folder ``TYPE/SEVERITY`` of such a set holds.

    Args:
        folder: Holds the folders of the types.
        classes: The classes wanted, in the order in which they are counted.
        names: ``CLASS/FILE`` of each image, ordered by class, then by file name.
        side: Height and width of the images.
    """

    folder: Path
    classes: tuple[str, ...]
    names: tuple[str, ...]
    side: int

    def read(self, kind: str, severity: int, indices: np.ndarray) -> np.ndarray:
        """Decode images of one type at one severity.

        Args:
            kind: Folder of the type.
            severity: Folder within it.
            indices: int64 (M,), which of ``names``.

        Returns:
            uint8 (M, side, side, 3).

        Raises:
            ValueError: The folder does not hold the same files as the others, a file is no image
                or of another size, or the images do not fit into memory.
        """
        place = self.folder / kind / str(severity)
        here, _ = _listed(place, self.classes)
        if here != self.names:
            odd = sorted(set(here) ^ set(self.names))
            raise ValueError(
                f"{place} must hold the same files as the other corruptions and severities; "
                f"{odd[0]} is not in both ({len(odd)} such files)"
            )
        check_memory(3 * self.side**2 * len(indices), name=str(place), n_images=len(indices))
        return read_squares([place / here[index] for index in indices], self.side)


def folder_kinds(folder: Path) -> tuple[str, ...]:
    """Names of the folders that hold a folder named after a severity, sorted."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    return tuple(
        name for name in names if any((folder / name / str(s)).is_dir() for s in range(1, 6))
    )


def read_class_folders(
    folder: Path, data: ImageData, *, kinds: Sequence[str], severities: Sequence[int]
) -> tuple[ClassFolders, np.ndarray]:
    """Check the folders of a set; of one type at one severity also the files.

    Args:
        folder: Holds the folders of the types.
        data: The clean data. Folders of classes that it does not have are left aside.
        kinds: Types wanted.
        severities: Severities wanted.

    Returns:
        The set, and the labels of its images at each severity, int64 (n,).

    Raises:
        ValueError: The folder of a type, a severity or a class is missing or empty.
    """
    for kind in kinds:
        for severity in severities:
            place = folder / kind / str(severity)
            if not place.is_dir():
                raise ValueError(f"{place} is not a folder; needed is {LAYOUT}")
            missing = [name for name in data.classes if not (place / name).is_dir()]
            if missing:
                raise ValueError(
                    f"{place} holds no folder of the class {missing[0]!r} of {data.name!r} "
                    f"({len(missing)} of {data.n_classes} are missing); needed is {LAYOUT}"
                )
    names, labels = _listed(folder / kinds[0] / str(severities[0]), data.classes)
    return ClassFolders(folder, data.classes, names, data.test_images.shape[1]), labels


def _listed(place: Path, classes: tuple[str, ...]) -> tuple[tuple[str, ...], np.ndarray]:
    """``CLASS/FILE`` of the images of some classes, and their labels."""
    files = list_classes(place, layout=LAYOUT)
    names, labels = [], []
    for label, name in enumerate(classes):
        members = files.get(name, ())
        names += [f"{name}/{Path(path).name}" for path in members]
        labels += [label] * len(members)
    return tuple(names), np.array(labels, dtype=np.int64)
