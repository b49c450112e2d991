"""Nested training state in one file, read back without unpickling.

A state is what ``state_dict()`` methods return: dicts, lists and tuples of tensors, numbers,
strings, booleans and None. Tensors go into a safetensors file under their path, the rest is a JSON
skeleton in the same file's metadata, so that one rename replaces everything at once.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regrow._optional import require
from regrow.study._atomic import write_bytes

_FORMAT = "regrow-state"
_VERSION = "1"


def save_state(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a nested state atomically to a safetensors file.

    Tensors are copied to the CPU and come back contiguous, in their own dtype; tensors that share
    memory are stored once each. Floats come back to the last bit, tuples as tuples, and keys of
    dicts as the strings or integers they were.

    Args:
        path: The file to write or replace.
        state: Dicts (keys: strings or integers), lists and tuples of tensors, numbers, strings,
            booleans and None.

    Raises:
        TypeError: The state holds something else; the message says where.
    """
    safetensors = require("safetensors.torch", extra="robustness")
    tensors: dict[str, Tensor] = {}
    skeleton = _encode(state, "", tensors)
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "state": json.dumps(skeleton, allow_nan=False),
    }
    write_bytes(path, safetensors.save(tensors, metadata=metadata))


def load_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a state that `save_state` wrote. Nothing in the file is executed.

    Args:
        path: The file.

    Returns:
        The state, its tensors on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or of another kind; the message names it.
    """
    safetensors = require("safetensors", extra="robustness")
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with safetensors.safe_open(os.fspath(path), framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, TypeError, AttributeError) as error:
        # (The last three: a dtype that this version of torch does not have.)
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error
    if metadata.get("format") != _FORMAT or metadata.get("version") != _VERSION:
        raise ValueError(
            f"{path} was not written by save_state: expected format {_FORMAT!r}, version "
            f"{_VERSION!r}, got {metadata.get('format')!r}, {metadata.get('version')!r}"
        )
    try:
        state = _decode(json.loads(metadata["state"]), tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__} {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} is damaged: it holds no dict")  # noqa: TRY004  # a bad file
    return state


def _encode(value: object, where: str, tensors: dict[str, Tensor]) -> object:
    """JSON for ``value``; what JSON has no word for becomes an object with one tag."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Tensor):
        # An integer and a string key of equal spelling would give one name to two tensors.
        name = where if where not in tensors else f"{where}#{len(tensors)}"
        tensors[name] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, list):
        return [_encode(item, f"{where}/{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, f"{where}/{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, Mapping):
        items = []
        for key, item in value.items():
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise TypeError(f"a key of state{where} must be a string or an integer: {key!r}")
            items.append([key, _encode(item, f"{where}/{key}", tensors)])
        return {"items": items}
    raise TypeError(
        f"state{where} is a {type(value).__name__}; a state holds dicts, lists, tuples, tensors, "
        "numbers, strings, booleans and None"
    )


def _decode(node: Any, tensors: Mapping[str, Tensor]) -> Any:  # noqa: ANN401  # JSON
    if isinstance(node, list):
        return [_decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    (tag, content), *more = node.items()
    if more:
        raise ValueError(f"an object has {len(node)} tags")
    if tag == "tensor":
        return tensors[content]
    if tag == "tuple":
        return tuple(_decode(item, tensors) for item in content)
    if tag == "items":
        keys = [key for key, _ in content]
        if len(set(keys)) < len(keys) or not all(type(key) in (str, int) for key in keys):
            raise ValueError("a key is there twice, or neither a string nor an integer")
        return {key: _decode(item, tensors) for key, item in content}
    if tag == "float":
        return float(content)
    raise ValueError(f"unknown tag {tag!r}")
