"""Reading arrays that others may have written, without believing what their headers say."""

import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

# What zipfile, zlib and numpy raise on damaged files; numpy parses a header as Python's own text.
_DAMAGED = (
    OSError, ValueError, TypeError, EOFError, KeyError, RuntimeError, OverflowError, SyntaxError,
    MemoryError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_arrays(
    path: str | os.PathLike[str],
    *,
    names: Collection[str] | None = None,
    most_bytes: int | None = None,
) -> dict[str, np.ndarray]:
    """Read the arrays of a ``.npz`` file; nothing is unpickled.

    What each array takes is told by the archive and by the array's own header; both are compared
    before anything of that size is asked for.

    Args:
        path: The file.
        names: Arrays to read, where they are there; None: all.
        most_bytes: Refuse files whose arrays, those to read, take more than this in all; None: any.

    Returns:
        Name -> array.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, too large or holds something else; the message names it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_members(archive, names, most_bytes)
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        what = str(error) or type(error).__name__
        raise ValueError(
            f"{path} cannot be read, it is not a .npz file of arrays: {what}"
        ) from error


def _read_members(
    archive: zipfile.ZipFile, names: Collection[str] | None, most_bytes: int | None
) -> dict[str, np.ndarray]:
    members = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if names is None or name in names:
            if name in members or name == member.filename:
                raise ValueError(f"{name!r:.80} is there twice, or is not that of an array")
            members[name] = member
    total = sum(member.file_size for member in members.values())
    if most_bytes is not None and total > most_bytes:
        raise ValueError(f"its arrays take {total} bytes; expected are {most_bytes} at most")
    return {name: _read_member(archive, member) for name, member in members.items()}


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        _check_header(file, member.file_size)
    with archive.open(member) as file:
        array: np.ndarray = npy.read_array(file, allow_pickle=False)
    return array


def open_array(path: str | os.PathLike[str]) -> np.ndarray:
    """Map a ``.npy`` file of numbers into memory, read-only; nothing is unpickled.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, of another length than it says, or holds something else;
            the message names it.
    """
    try:
        with Path(path).open("rb") as file:
            _check_header(file, os.fstat(file.fileno()).st_size)
        array: np.ndarray = npy.open_memmap(Path(path), mode="r")
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        what = str(error) or type(error).__name__
        raise ValueError(f"{path} cannot be read as one array of numbers: {what}") from error
    return array


def _check_header(file: IO[bytes], n_bytes: int) -> None:
    """Raise where a file of so many bytes does not hold what its header tells."""
    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version[0] == 1 else npy.read_array_header_2_0
    shape, _, dtype = read_header(file)
    told = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or n_bytes - file.tell() != told:
        raise ValueError(
            f"its header tells of {told} bytes of {dtype}, behind it are {n_bytes - file.tell()}"
        )
