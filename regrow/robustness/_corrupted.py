"""The corrupted test images of a study: made once a seed, the same for every arm."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, final

import numpy as np
import torch

from regrow.data import CorruptedImages, checksum, open_array
from regrow.robustness.corruptions import corrupt_seeded
from regrow.study import write_array
from regrow.topology import derived_generator


class CorruptedSets(Protocol):
    """Where corrupted images come from."""

    @property
    def checksums(self) -> dict[str, dict[str, str]]:
        """Set -> corruption and severity -> SHA-256 of the images, of those used so far."""

    def images(self, seed: int, kind: str, severity: int) -> np.ndarray:
        """uint8 (N, H, W, 3): the test images corrupted for a seed."""

    def release(self, seed: int) -> None:
        """Give back the space that a seed's images take."""


def image_seeds(seed: int, *, n_images: int) -> np.ndarray:
    """One seed for each test image, for all its corruptions.

    Args:
        seed: The run's seed.
        n_images: How many images.

    Returns:
        int64 (N,), drawn from a generator derived from the run's seed. `corrupt_seeded` derives
        unrelated numbers from one of them for each corruption and severity, and the same ones
        whatever batch the image is in.
    """
    generator = derived_generator(seed, "corruption")
    return torch.randint(2**62, (n_images,), generator=generator).numpy()


@final
@dataclass
class GeneratedSets:
    """Sets made by `regrow.robustness.corrupt`, kept as files while their seed is worked on.

    Args:
        clean: uint8 (N, H, W, 3), the test images.
        folder: Where the files of the seeds go: as many bytes as ``clean``, times corruptions and
            severities, for one seed at a time.
        frost_dir: Folder of the frost textures, needed by ``"frost"`` only.
        expected: Checksums of an earlier session; images that differ from them are refused.
        chunk: Images corrupted at once; bounds the memory, changes nothing.
    """

    clean: np.ndarray
    folder: Path
    frost_dir: Path | None = None
    expected: dict[str, dict[str, str]] = field(default_factory=dict)
    chunk: int = 1000
    checksums: dict[str, dict[str, str]] = field(default_factory=dict, init=False)

    def images(self, seed: int, kind: str, severity: int) -> np.ndarray:
        """uint8 (N, H, W, 3): the test images corrupted for a seed, read-only.

        Raises:
            ValueError: They are not what an earlier session of this study used, or their file is
                damaged.
        """
        path = self._folder(seed) / f"{kind}-{severity}.npy"
        known = self.checksums.setdefault(f"seed {seed}", {})
        name = f"{kind}-{severity}"
        if name not in known or not path.exists():
            images = self._stored(path) if path.exists() else self._make(seed, kind, severity)
            found = checksum(images)
            before = known.get(name) or self.expected.get(f"seed {seed}", {}).get(name)
            if before not in (None, found):
                path.unlink(missing_ok=True)
                raise ValueError(
                    f"{kind} at severity {severity} for seed {seed} has checksum {found} and had "
                    f"{before} when this study began: were packages or textures changed since?"
                )
            if not path.exists():
                write_array(path, images)
            known[name] = found
        return self._stored(path)

    def release(self, seed: int) -> None:
        """Remove a seed's files."""
        folder = self._folder(seed)
        if folder.is_dir():
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _stored(self, path: Path) -> np.ndarray:
        """The images of a file of ours, once it is known to hold such images."""
        advice = "remove it, and it is made again"
        try:
            images = open_array(path)
        except ValueError as error:
            raise ValueError(f"{error}; {advice}") from error
        if images.dtype != np.uint8 or images.shape != self.clean.shape:
            raise ValueError(
                f"{path} must hold the test images, uint8 of shape {self.clean.shape}; it holds "
                f"{images.dtype} of shape {images.shape}: {advice}"
            )
        return images

    def _folder(self, seed: int) -> Path:
        return self.folder / f"seed{seed}"

    def _make(self, seed: int, kind: str, severity: int) -> np.ndarray:
        seeds = image_seeds(seed, n_images=len(self.clean))
        parts = [
            corrupt_seeded(
                self.clean[start : start + self.chunk],
                kind,
                severity,
                seeds=seeds[start : start + self.chunk],
                frost_dir=self.frost_dir,
            )
            for start in range(0, len(self.clean), self.chunk)
        ]
        return np.concatenate(parts)


@final
@dataclass
class PublishedSets:
    """Sets of files that others made, the same for every seed.

    Args:
        source: The files, checked against the test labels.
        expected: Checksums of an earlier session; images that differ from them are refused.
    """

    source: CorruptedImages
    expected: dict[str, dict[str, str]] = field(default_factory=dict)
    checksums: dict[str, dict[str, str]] = field(default_factory=dict, init=False)

    def images(self, seed: int, kind: str, severity: int) -> np.ndarray:  # noqa: ARG002
        """uint8 (N, H, W, 3): the published images.

        Raises:
            ValueError: They are not what an earlier session of this study used.
        """
        images = self.source.images(kind, severity)
        known = self.checksums.setdefault("published", {})
        name = f"{kind}-{severity}"
        if name not in known:
            known[name] = checksum(images)
            before = self.expected.get("published", {}).get(name, known[name])
            if before != known[name]:
                raise ValueError(
                    f"{self.source.folder}: {kind} at severity {severity} is another file than "
                    "when this study began"
                )
        return images

    def release(self, seed: int) -> None:
        """Nothing to give back: the files are not ours."""
