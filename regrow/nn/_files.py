"""save and load: a model of truly sparse layers as one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regrow._checks import described
from regrow._names import unwrap
from regrow._optional import require
from regrow._replacing import replacing
from regrow._sharding import is_sharded
from regrow.errors import SparsityError
from regrow.nn._files_fill import Filling
from regrow.nn._files_header import Header, LayerEntry, arguments_of, describe, kind_of
from regrow.nn._files_index import encode
from regrow.nn._finalize import freeze
from regrow.nn._sparse_module import SparseModule

_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16,
    "I16": torch.int16, "I32": torch.int32, "I64": torch.int64, "BF16": torch.bfloat16,
    "F16": torch.float16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
"""Those of parameters and buffers that are written, by their name in a file."""


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a model to one safetensors file, atomically; ``load`` reads it.

    Of a truly sparse layer the file holds the values and the topology: as one bit for each element
    of the dense weight, or as gaps between connections of one or two bytes, whichever is smallest:
    0.25 bytes a connection at 50 %, 0.63 at 80 %, 1 at 90 and 95 %, 1.08 at 99 %, 2 at 99.9 %. All
    other parameters and persistent buffers are held as they are, tied ones once, and masked dense
    weights with their zeros: ``finalize_`` makes them truly sparse.

    What the layers are (kinds, arguments, structures) is JSON in the header, and so is
    ``metadata``. A structure of your own is not: its layers load as of single elements.

    Args:
        model: Any module, on any device; not changed.
        path: The file; its folder is made where it is missing. What was there is replaced once all
            is written, and its permissions are kept.
        metadata: Anything of your own that JSON can hold; ``read_metadata`` gives it back.

    Raises:
        BackendUnavailableError: safetensors is not installed.
        TypeError: ``metadata`` is no mapping, or JSON cannot hold it; the message names the key.
        ValueError: It holds a number that is not finite.
        SparsityError: A tensor cannot be written: sharded, of a dtype or kind that a file cannot
            hold, or a module's extra state.
    """
    safetensors = require("safetensors.torch", extra="sparse")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, got {type(metadata).__name__}")
    user = dict(metadata or {})
    _check_metadata(user)
    tensors, header = _described(unwrap(model), user)
    described = header.write()
    with replacing(Path(path)) as temporary:
        safetensors.save_file(tensors, temporary, metadata=described)


def load(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Fill a freshly made model of the same architecture from a file of ``save``, for inference.

    Truly sparse layers take the place of dense ones where the file has them. The model is in
    evaluation mode afterwards, and no parameter requires a gradient. It computes what the saved
    one did, bit for bit on the same back end and threads. Everything is checked before anything is
    changed. Nothing is unpickled, and nothing of regrow is needed that trains.

    Args:
        model: With the layers, shapes and dtypes of the one that was saved, dense or truly sparse.
            Made on the device "meta" it costs no memory: what is there becomes what the file has,
            on the CPU.
        path: The file.

    Returns:
        ``model``; or, where it is itself a layer that is replaced, what takes its place.

    Raises:
        BackendUnavailableError: safetensors is not installed.
        OSError: There is no such file, or it cannot be read.
        SparsityError: The file is damaged, or of another model; it names the file and the tensor.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    with _opened(path) as file:
        header = Header.read(file.metadata())
        names = list(file.keys())
        filling = Filling(unwrap(model), header, {name: _tensor(file, name) for name in names})
    return freeze(filling.apply(model))


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The user's part of a file of ``save``.

    Args:
        path: The file; its tensors are not read.

    Raises:
        BackendUnavailableError: safetensors is not installed.
        OSError: There is no such file, or it cannot be read.
        SparsityError: Not a file of ``save``, or a damaged one.
    """
    with _opened(path) as file:
        return Header.read(file.metadata()).user


# -- writing -------------------------------------------------------------------------------------


def _check_metadata(metadata: Mapping[Any, Any]) -> None:
    for key, value in metadata.items():
        if not isinstance(key, str):
            raise TypeError(
                f"the keys of metadata must be texts, as JSON has them, got {key!r:.80}"
            )
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(
                f"metadata[{key!r:.80}] must be what JSON can hold (texts, numbers, lists, dicts), "
                f"got {described(value)}: {error}"
            ) from error


def _described(root: nn.Module, user: dict[str, Any]) -> tuple[dict[str, Tensor], Header]:
    tensors: dict[str, Tensor] = {}
    header = Header({}, {}, user)
    held: dict[int, str] = {}
    storages: set[int] = set()
    for path, module in root.named_modules():
        _check_extra_state(path, module)
        for name, tensor in named_tensors(path, module):
            first = held.setdefault(id(tensor), name)
            if first == name:
                tensors[name] = _written(tensor, name, storages)
            else:
                header.same[name] = first
    for path, module in root.named_modules():
        if not isinstance(module, SparseModule):
            continue
        values = held[id(module.values)]
        topology = f"{values.removesuffix('values')}topology"
        coding, tensors[topology] = encode(module.topology)
        header.layers[path] = LayerEntry(
            kind=kind_of(module),
            arguments=arguments_of(module),
            structure=describe(module.structure),
            nnz=module.nnz,
            coding=coding,
            values=values,
            topology=topology,
        )
        header.same.pop(f"{path}.values" if path else "values", None)
    return tensors, header


def named_tensors(path: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Own parameters and persistent buffers of a module, by their names in a state_dict."""
    own = {**module._parameters, **module._buffers}
    for attribute, tensor in own.items():
        if tensor is not None and attribute not in module._non_persistent_buffers_set:
            yield f"{path}.{attribute}" if path else attribute, tensor


def _check_extra_state(path: str, module: nn.Module) -> None:
    own = type(module).get_extra_state
    if own is not nn.Module.get_extra_state and not isinstance(module, SparseModule):
        raise SparsityError(
            f"{path!r}, a {type(module).__name__}, has extra state of its own, which a file of "
            "tensors cannot hold"
        )


def _written(tensor: Tensor, name: str, storages: set[int]) -> Tensor:
    """A tensor as safetensors takes it: contiguous, in memory that no other one has."""
    if is_sharded(tensor):
        raise SparsityError(f"{name!r} is split over ranks: gather the model first")
    plain = tensor.dtype in _DTYPES.values() and tensor.layout == torch.strided
    uninitialised = isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer)
    if not plain or tensor.is_meta or uninitialised:
        raise SparsityError(
            f"{name!r} is {tensor.dtype}, {tensor.layout}, on {tensor.device}"
            f"{', not initialised' if uninitialised else ''}: a file holds plain dense tensors of "
            f"{', '.join(_DTYPES)}"
        )
    written = tensor.detach().cpu().contiguous()
    if written.untyped_storage().data_ptr() in storages:
        written = written.clone()
    storages.add(written.untyped_storage().data_ptr())
    return written


# -- reading -------------------------------------------------------------------------------------


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """An open safetensors file; whatever is wrong with it is said with its name."""
    safetensors = require("safetensors", extra="sparse")
    try:
        with safetensors.safe_open(os.fspath(path), framework="pt", device="cpu") as file:
            yield file
    except SparsityError as error:
        raise SparsityError(f"{os.fspath(path)}: {error}") from error
    except (safetensors.SafetensorError, ValueError, TypeError, RuntimeError) as error:
        raise SparsityError(
            f"{os.fspath(path)} is no whole safetensors file: {error!s:.200}"
        ) from error


def _tensor(file: Any, name: str) -> Tensor:  # noqa: ANN401
    dtype = file.get_slice(name).get_dtype()
    if dtype not in _DTYPES:
        raise SparsityError(f"{name!r:.80} is of dtype {dtype}, which save does not write")
    tensor: Tensor = file.get_tensor(name)
    return tensor
