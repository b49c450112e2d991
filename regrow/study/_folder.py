"""The folder of a study: its settings, and one folder a cell that is done or can go on."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from regrow.study._atomic import read_json, remove_partial_files, write_json
from regrow.study._grid import Cell


@final
@dataclass(frozen=True)
class StudyFolder:
    """Where a study keeps what it has done.

    Args:
        root: The folder. ``config.json`` in it tells what the study is; a cell's files are in
            ``cells/<cell>/``.
    """

    root: Path

    @property
    def config(self) -> Path:
        """The file of settings, versions and checksums."""
        return self.root / "config.json"

    def read_config(self) -> dict[str, Any]:
        """What `config` holds.

        Raises:
            FileNotFoundError: The folder holds no study.
            ValueError: The file is damaged.
        """
        if not self.config.is_file():
            raise FileNotFoundError(f"{self.root} holds no study: there is no {self.config.name}")
        config = read_json(self.config)
        settings = config.get("settings") if isinstance(config, dict) else None
        if type(settings) is not dict:
            raise ValueError(f"{self.config} is no study's configuration: it has no settings")
        return dict(config)

    def update_config(self, **entries: object) -> None:
        """Replace entries of `config` atomically; the others stay."""
        write_json(self.config, {**self.read_config(), **entries})

    def cell(self, cell: Cell) -> Path:
        """A cell's folder."""
        return self.root / "cells" / cell.name

    def checkpoint(self, cell: Cell) -> Path:
        """A cell's checkpoint: of its last epoch done, in the end of its last."""
        return self.cell(cell) / "checkpoint.safetensors"

    def is_done(self, cell: Cell) -> bool:
        """Whether the cell has its result."""
        return self.result(cell).is_file()

    def read_result(self, cell: Cell) -> dict[str, Any]:
        """A done cell's result.

        Raises:
            FileNotFoundError: The cell is not done.
            ValueError: The file is damaged or of another cell.
        """
        result = read_json(self.result(cell))
        if not isinstance(result, dict) or result.get("cell") != vars(cell):
            raise ValueError(f"{self.result(cell)} is not the result of {cell.name}")
        return result

    def finish(self, cell: Cell, result: Mapping[str, object]) -> None:
        """Write a cell's result atomically, which makes it done."""
        write_json(self.result(cell), {"cell": vars(cell), **result})

    def result(self, cell: Cell) -> Path:
        """The file of a cell's result, there once the cell is done."""
        return self.cell(cell) / "result.json"


def open_study(
    out: str | os.PathLike[str], settings: Mapping[str, object], *, resume: bool = False
) -> StudyFolder:
    """Start a study in a folder, or go on with it.

    Args:
        out: The folder. Made where it is missing.
        settings: All that the numbers depend on, as JSON values.
        resume: Go on with what the folder holds, if it holds this study. A folder that is missing
            or empty is started.

    Returns:
        The folder, with its settings written.

    Raises:
        FileExistsError: The folder holds this study and ``resume`` is False, or holds other files.
        ValueError: The folder holds a study with other settings; says what differs. Nothing has
            been touched.
    """
    folder = StudyFolder(Path(out))
    if folder.root.exists() and not folder.root.is_dir():
        raise FileExistsError(f"{folder.root} is a file; choose another folder")
    if folder.config.exists():
        differences = _differences(folder.read_config()["settings"], settings)
        if differences:
            raise ValueError(
                f"{folder.root} holds a study with other settings: {'; '.join(differences)}. "
                "Choose another folder (out=, --out), or ask for the same settings"
            )
        if not resume:
            raise FileExistsError(
                f"{folder.root} already holds this study: go on with it (resume=True, --resume), "
                "or choose another folder (out=, --out)"
            )
        remove_partial_files(folder.root)
        return folder
    if folder.root.is_dir():
        remove_partial_files(folder.root)
        if any(folder.root.iterdir()):
            raise FileExistsError(
                f"{folder.root} is not empty and holds no study; choose another folder "
                "(out=, --out)"
            )
    write_json(folder.config, {"settings": settings})
    return folder


def _differences(
    there: Mapping[str, Any], asked: Mapping[str, object], prefix: str = ""
) -> list[str]:
    """Name each setting that is not the same, with both values."""
    found = []
    for name in [*there, *(name for name in asked if name not in there)]:
        old, new = there.get(name), asked.get(name)
        if isinstance(old, dict) and isinstance(new, Mapping):
            found += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name} is {old!r} there and {new!r} here")
    return found
