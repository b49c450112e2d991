"""Which corruptions a study can have, and where they come from."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from regrow.data import CorruptedImages, ImageData, available_kinds, read_corrupted
from regrow.robustness._corrupted import CorruptedSets, GeneratedSets, PublishedSets
from regrow.robustness._settings import choose_corruptions
from regrow.robustness.corruptions import available, corrupt_seeded

_NO_FROST = "it lays photographs of ice over the images, and there is no folder of them (--frost)"
Checksums = Mapping[str, Mapping[str, str]]


@final
@dataclass(frozen=True)
class Source:
    """Corruptions that were asked for and can be had.

    Args:
        kinds: Their names.
        note: What had to be left out and why, if anything.
        frost: Folder of the frost textures, or None.
        published: Files to read; None where images are corrupted by regrow.
    """

    kinds: tuple[str, ...]
    note: str | None
    frost: Path | None
    published: CorruptedImages | None

    def open(self, data: ImageData, *, folder: Path, expected: Checksums) -> CorruptedSets:
        """The corrupted images.

        Args:
            data: The clean images.
            folder: Where images that are made are kept for as long as they are needed.
            expected: Checksums of an earlier session.
        """
        known = {name: dict(sets) for name, sets in expected.items()}
        if self.published is not None:
            return PublishedSets(self.published, known)
        return GeneratedSets(data.test_images, folder, self.frost, known)


def choose_source(
    data: ImageData,
    *,
    asked: str | Sequence[str],
    severities: Sequence[int],
    frost: str | os.PathLike[str] | None,
    corrupted: str | os.PathLike[str] | None,
) -> Source:
    """Find the corruptions of a study.

    Args:
        data: The clean images.
        asked: ``"all"``, ``"common"`` or names.
        severities: Of 1..5.
        frost: Folder of the frost textures, or None.
        corrupted: Folder of a published corrupted test set, or None to make one.

    Returns:
        The source.

    Raises:
        FileNotFoundError: The frost folder lacks textures.
        ValueError: A corruption is unknown or cannot be had, images have a size for which there
            are no constants, or the published set is not one of these images.
    """
    if corrupted is not None:
        if frost is not None:
            raise ValueError("frost has no use with corrupted, whose images are ready made")
        there = available_kinds(corrupted)
        kinds, note = choose_corruptions(asked, available=there, missing=f"not in {corrupted}")
        published = read_corrupted(corrupted, data, kinds=kinds, severities=severities)
        return Source(kinds, note, None, published)
    # Images of a wrong size and textures that are not there are told before anything is trained.
    probe = np.zeros((1, *data.test_images.shape[1:]), dtype=np.uint8)
    seed = np.zeros(1, dtype=np.int64)
    corrupt_seeded(probe, "gaussian_noise", 1, seeds=seed)
    if frost is not None:
        corrupt_seeded(probe, "frost", 1, seeds=seed, frost_dir=frost)
    kinds, note = choose_corruptions(asked, available=available(frost), missing=_NO_FROST)
    return Source(kinds, note, None if frost is None else Path(frost), None)
