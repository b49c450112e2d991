"""export_onnx: the dense model that computes what a sparse one does, for other runtimes."""

from __future__ import annotations

import copy
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regrow._names import unwrap
from regrow._optional import require
from regrow._replacing import replacing
from regrow.errors import SparsityError
from regrow.nn._convert import densify_, has_sparse_form
from regrow.topology import NM

LARGEST = 2**31 - 1
"""Bytes of a protobuf message."""
TWO_OF_FOUR = "regrow.two_of_four"
"""The entry of the metadata that lists 2:4 weights."""


def export_onnx(model: nn.Module, inputs: object, path: str | os.PathLike[str]) -> dict[str, str]:
    """Write the dense-equivalent model as one ONNX file, checked by ``onnx.checker``.

    A copy of the model is exported, in evaluation mode, with dense layers in the place of truly
    sparse ones; connections that do not exist are exact zeros. The first dimension of every input
    that has the batch's size is dynamic.

    Weights of Linear and Conv1d/2d/3d with at most two nonzeros in every run of four inputs, which
    is what runtimes with 2:4 kernels take, are named in the model's metadata: the entry
    ``regrow.two_of_four`` is a JSON object, name of the weight -> name of the initializer that
    holds it. A linear layer on more than two dimensions has it transposed, under a name of the
    exporter's. They are told by their zeros, however these came about.

    Args:
        model: Any module that ``torch.export`` can trace, of less than 2 GiB when dense; not
            changed.
        inputs: An example batch, or a tuple of the model's positional arguments, tensors all.
        path: The file; its folder must exist. What was there is replaced once all is written.

    Returns:
        Name of each 2:4 weight -> name of its initializer.

    Raises:
        BackendUnavailableError: onnx or onnxscript is not installed.
        TypeError: ``inputs`` holds something else than tensors.
        SparsityError: The model is too large, or cannot take another batch size.
    """
    onnx = require("onnx", extra="onnx")
    require("onnxscript", extra="onnx")
    arguments = _arguments(inputs)
    dense = densify_(copy.deepcopy(unwrap(model))).eval().requires_grad_(requires_grad=False)
    n_bytes = sum(one.nbytes for one in (*dense.parameters(), *dense.buffers()))
    if n_bytes > LARGEST:
        raise SparsityError(
            f"the dense-equivalent model has {n_bytes:,} bytes, and an ONNX file holds at most "
            f"{LARGEST:,}: regrow.nn.save keeps it sparse"
        )
    exported = _exported(dense, arguments)
    names = _initializers(onnx, exported, _two_of_four(dense))
    onnx.helper.set_model_props(exported, {TWO_OF_FOUR: json.dumps(names)})
    onnx.checker.check_model(exported, full_check=True)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(exported.SerializeToString())
    return names


def _arguments(inputs: object) -> tuple[Tensor, ...]:
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    if not arguments or not all(isinstance(one, Tensor) and one.dim() for one in arguments):
        raise TypeError(
            f"inputs must be a tensor with a batch dimension or a tuple of such, got {inputs!r:.80}"
        )
    return arguments


def _exported(dense: nn.Module, arguments: tuple[Tensor, ...]) -> Any:  # noqa: ANN401
    n_batch = arguments[0].shape[0]
    batched = [one.shape[0] == n_batch for one in arguments]
    if n_batch < 2:
        # (What has size 1 when it is traced, torch.export takes for constant.)
        arguments = tuple(
            torch.cat([one, one]) if is_batched else one
            for one, is_batched in zip(arguments, batched, strict=True)
        )
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} if is_batched else {} for is_batched in batched)
    try:
        with warnings.catch_warnings():
            # Of torch and onnxscript about each other.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                dense, arguments, dynamo=True, dynamic_shapes=shapes, verbose=False
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise SparsityError(f"the model cannot be exported: {reason:.400}") from error
    exported = program.model_proto  # type: ignore[union-attr]
    for node in exported.graph.node:
        # Where in the user's files it came from is nobody's business.
        del node.metadata_props[:]
    for given, is_batched in zip(exported.graph.input, batched, strict=True):
        if is_batched and not given.type.tensor_type.shape.dim[0].dim_param:
            raise SparsityError(
                f"the model works with batches of {given.type.tensor_type.shape.dim[0].dim_value} "
                "only: somewhere it fixes the first dimension, as in x.view(32, -1)"
            )
    return exported


def _initializers(onnx: Any, exported: Any, weights: dict[str, Tensor]) -> dict[str, str]:  # noqa: ANN401
    """Name of each weight -> name of the constant of the exported model that holds it.

    That is its own, or that of its transpose where the exporter has computed it.
    """
    held = {one.name: one for one in exported.graph.initializer}
    found = {}
    for name, weight in weights.items():
        if name in held:
            found[name] = name
            continue
        wanted = weight.detach().cpu().t() if weight.dim() == 2 else None
        for other, tensor in held.items():
            if wanted is None or tuple(tensor.dims) != tuple(wanted.shape):
                continue
            if torch.equal(_values(onnx, tensor), wanted.double()):
                found[name] = other
                break
    return found


def _values(onnx: Any, tensor: Any) -> Tensor:  # noqa: ANN401
    return torch.from_numpy(onnx.numpy_helper.to_array(tensor).astype("float64"))


def _two_of_four(dense: nn.Module) -> dict[str, Tensor]:
    """Weights with at most two nonzeros in every run of four inputs, by name."""
    runs = NM(2, 4)
    found = {}
    for path, module in dense.named_modules():
        if not has_sparse_form(module):
            continue
        weight: Tensor = module.weight.detach()
        if weight.shape[1] % 4 or not weight.numel():
            continue
        positions = weight.reshape(-1).nonzero().squeeze(1).cpu()
        shape = tuple(weight.shape)
        counts = torch.bincount(runs.group_of(positions, shape), minlength=runs.n_groups(shape))
        if int(counts.max()) <= 2:
            found[f"{path}.weight" if path else "weight"] = weight
    return found
