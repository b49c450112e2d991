"""One test image under every corruption, for the report."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from regrow.data import read_arrays
from regrow.robustness._corrupted import CorruptedSets
from regrow.robustness._job import Job
from regrow.study import StudyFolder, write_arrays

_NAME = "examples.npz"
# A clean image and 19 corruptions at 5 severities, of 224 x 224 pixels, and room for more.
_MOST_BYTES = 100_000_000


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
    try:
        return _named(read_arrays(path, most_bytes=_MOST_BYTES))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged: {error}. The report can do without it: remove it"
        ) from error


def _named(arrays: Mapping[str, np.ndarray]) -> dict[tuple[str, int], np.ndarray]:
    examples = {}
    for name, image in arrays.items():
        kind, _, severity = name.rpartition("-")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"{name:.80} is {image.dtype} of shape {image.shape}, no image")
        examples[kind, int(severity)] = image
    if len({image.shape for image in examples.values()}) > 1:
        raise ValueError("its images differ in size")
    return examples
