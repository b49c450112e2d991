"""Files that are either whole or absent, whatever moment the process is killed at."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from regrow._replacing import SUFFIX, replacing

_DEEPEST = 50


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file atomically.

    Args:
        path: The file. Its folder is made where it is missing.
        content: All of its bytes.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file atomically, with line ends as they stand in ``text``.

    Args:
        path: The file. Its folder is made where it is missing.
        text: All of its text.
    """
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write a readable JSON file atomically.

    Args:
        path: The file. Its folder is made where it is missing.
        value: Dicts with string keys, lists, strings, numbers, booleans and None.

    Raises:
        TypeError: The value holds something else.
        ValueError: The value holds a number that JSON does not know, such as nan.
    """
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:  # noqa: ANN401  # what a JSON file holds
    """Read a JSON file.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no JSON, or what `write_json` cannot write: numbers that are not
            finite, or lists in lists, more than 50 deep. The message names the file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        value = json.loads(text, parse_float=_finite, parse_constant=_finite)
        _check_depth(value)
    except RecursionError as error:
        raise ValueError(f"{path} holds no JSON that can be read: it nests too deep") from error
    except ValueError as error:
        raise ValueError(f"{path} holds no JSON: {error}") from error
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.40} is no finite number")
    return value


def _check_depth(value: object) -> None:
    """Raise ValueError where text is no text, or where what walks the value would not end well."""
    level = [value]
    for _ in range(_DEEPEST):
        if not level:
            return
        for text in (item for item in level if isinstance(item, str)):
            text.encode()  # a lone surrogate is a valid escape, and no file can hold it
        below = [item.items() for item in level if isinstance(item, dict)]
        level = [part for items in below for pair in items for part in pair] + [
            part for item in level if isinstance(item, list) for part in item
        ]
    raise ValueError(f"it nests more than {_DEEPEST} deep")


def remove_partial_files(folder: str | os.PathLike[str]) -> None:
    """Remove what killed writers left in a folder and in the folders below it.

    Args:
        folder: Where to look. Files of other names stay.
    """
    for leftover in Path(folder).rglob(f".*{SUFFIX}"):
        leftover.unlink(missing_ok=True)


def write_array(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write an array of numbers to a ``.npy`` file atomically.

    Args:
        path: The file. Its folder is made where it is missing.
        array: Any array of numbers.

    Raises:
        ValueError: The array holds Python objects.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays of numbers to a compressed ``.npz`` file atomically.

    Args:
        path: The file. Its folder is made where it is missing.
        arrays: Name -> array of numbers.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **dict(arrays), allow_pickle=False)
