"""What a file of a model says about its tensors: JSON in the safetensors header."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, final

from torch import nn

from regrow.errors import SparsityError
from regrow.nn._files_index import CODINGS
from regrow.nn._sparse_module import SparseModule
from regrow.topology import (
    NM,
    Block,
    ChannelGroups,
    ConstantFanIn,
    InChannel,
    Kernel,
    OutChannel,
    Structure,
    Unstructured,
)

KEY = "regrow"
FORMAT = 1
_STRUCTURES = {
    kind.__name__: kind
    for kind in (
        NM, Block, ChannelGroups, ConstantFanIn, InChannel, Kernel, OutChannel, Unstructured,
    )
}  # fmt: skip
_LINEAR = ("in_features", "out_features")
_CONV = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
    "padding_mode",
)  # fmt: skip


@final
@dataclass(frozen=True)
class LayerEntry:
    """One truly sparse layer of a file.

    Args:
        kind: Name of its class.
        arguments: Those of torch's layer, by name.
        structure: Class and fields of the structure; empty for one that is none of the library's.
        nnz: Connections.
        coding: How the topology is written.
        values: Name of the tensor of values; layers that are tied have the same.
        topology: Name of the tensor of codes.
    """

    kind: str
    arguments: dict[str, Any]
    structure: dict[str, Any]
    nnz: int
    coding: str
    values: str
    topology: str

    def __post_init__(self) -> None:
        for name, kind in (("arguments", dict), ("structure", dict), ("nnz", int)):
            if type(getattr(self, name)) is not kind:
                raise SparsityError(f"{name} of a layer must be of type {kind.__name__}")
        for name in ("kind", "coding", "values", "topology"):
            if not isinstance(getattr(self, name), str):
                raise SparsityError(f"{name} of a layer must be a string")
        if self.coding not in CODINGS:
            raise SparsityError(f"coding must be one of {', '.join(CODINGS)}: {self.coding!r:.40}")


@final
@dataclass(frozen=True)
class Header:
    """All that a file says beside its tensors.

    Args:
        layers: Path of each truly sparse layer -> what it is.
        same: Name of a tensor that is tied -> name of the tensor of the file that holds it.
        user: What the user wrote.
    """

    layers: dict[str, LayerEntry]
    same: dict[str, str]
    user: dict[str, Any]

    def write(self) -> dict[str, str]:
        """As the metadata of a safetensors file.

        Raises:
            TypeError: The user's part holds what JSON does not.
            ValueError: It holds a number that is not finite.
        """
        package = sys.modules.get("regrow")
        content = {
            "format": FORMAT,
            "version": getattr(package, "__version__", "unknown"),
            "layers": {path: asdict(entry) for path, entry in self.layers.items()},
            "same": self.same,
            "user": self.user,
        }
        return {KEY: json.dumps(content, allow_nan=False)}

    @classmethod
    def read(cls, metadata: Mapping[str, str] | None) -> Header:
        """From the metadata of a safetensors file.

        Raises:
            SparsityError: Not written by ``write``, or by a later version.
        """
        text = (metadata or {}).get(KEY)
        if text is None:
            raise SparsityError("not a file of regrow.nn.save: its header does not mention regrow")
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SparsityError(f"the header holds no JSON: {error!r:.100}") from error
        found = content.get("format") if isinstance(content, dict) else None
        if type(found) is not int or found != FORMAT:
            raise SparsityError(
                f"the format is {found!r:.40}, and this version of regrow reads {FORMAT}"
            )
        parts = [content.get(name) for name in ("layers", "same", "user")]
        if not all(isinstance(part, dict) for part in parts):
            raise SparsityError("layers, same and user of the header must be objects")
        layers, same, user = parts
        if not all(isinstance(name, str) for name in same.values()):
            raise SparsityError("same of the header must map names to names")
        return cls({path: _layer(entry) for path, entry in layers.items()}, same, user)


def _layer(entry: object) -> LayerEntry:
    names = [field.name for field in fields(LayerEntry)]
    if not isinstance(entry, dict) or sorted(entry) != sorted(names):
        raise SparsityError(f"a layer of the header must have {', '.join(names)}: {entry!r:.80}")
    return LayerEntry(**entry)


def arguments_of(module: nn.Module) -> dict[str, Any]:
    """What torch's layer, or the truly sparse one in its place, was made with; as JSON has it."""
    names = _LINEAR if hasattr(module, "in_features") else _CONV
    found = {name: getattr(module, name) for name in names}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in found.items()
    }


def kind_of(module: nn.Module) -> str:
    """Name of the class, or of the truly sparse one in its place."""
    name = type(module).__name__
    return name if isinstance(module, SparseModule) else f"Sparse{name}"


def describe(structure: Structure) -> dict[str, Any]:
    """A structure of the library by class and fields, another one as nothing."""
    kind = type(structure)
    if _STRUCTURES.get(kind.__name__) is not kind or not is_dataclass(structure):
        return {}
    return {"class": kind.__name__, **asdict(structure)}


def structure_of(described: Mapping[str, Any]) -> Structure:
    """The structure that ``describe`` described; single elements for nothing.

    Raises:
        SparsityError: Not such a description.
    """
    if not described:
        return Unstructured()
    arguments = {name: value for name, value in described.items() if name != "class"}
    name = described.get("class")
    kind: Any = _STRUCTURES.get(name) if isinstance(name, str) else None
    if kind is None or set(arguments) != {field.name for field in fields(kind)}:
        raise SparsityError(f"no structure of this version: {dict(described)!r:.80}")
    if not all(type(value) in (int, bool) for value in arguments.values()):
        raise SparsityError(f"a structure's fields are whole numbers: {dict(described)!r:.80}")
    try:
        return kind(**arguments)  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise SparsityError(f"no structure: {error}") from error
