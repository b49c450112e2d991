"""One test image under every corruption, for the report."""

import os
import zipfile
from pathlib import Path

import numpy as np

from regrow.robustness._corrupted import CorruptedSets
from regrow.robustness._job import Job
from regrow.study import StudyFolder, write_arrays

_NAME = "examples.npz"


def save_examples(job: Job, seed: int, corrupted: CorruptedSets, folder: StudyFolder) -> None:
    """Keep the first test image as it is and under every corruption, unless that is kept already.

    Args:
        job: The study.
        seed: A seed whose corrupted images are there.
        corrupted: The corrupted images.
        folder: The study's folder.
    """
    if (folder.root / _NAME).exists():
        return
    examples = {"clean-0": job.data.test_images[0]}
    for kind in job.settings.corruptions:
        for severity in job.settings.severities:
            examples[f"{kind}-{severity}"] = np.array(corrupted.images(seed, kind, severity)[0])
    write_arrays(folder.root / _NAME, examples)


def read_examples(root: str | os.PathLike[str]) -> dict[tuple[str, int], np.ndarray]:
    """Read the example of a study's folder.

    Args:
        root: The folder.

    Returns:
        (Corruption, severity) -> uint8 (H, W, 3); the clean image is ``("clean", 0)``. Empty where
        none is kept.

    Raises:
        ValueError: The file is damaged.
    """
    path = Path(root) / _NAME
    if not path.exists():
        return {}
    examples = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                kind, _, severity = name.rpartition("-")
                examples[kind, int(severity)] = arrays[name]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return examples
