"""Weights, gradients and topologies in memory that two processes share, one of them at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from regrow import Topology
from regrow._resize import resize
from regrow.errors import SparsityError
from regrow.nn import SparseModule


@final
@dataclass(frozen=True)
class Mailbox:
    """Room for the parameters of one model, or their gradients, and its topologies.

    Whoever got the last message owns it: no locks, which a process could die with.

    Args:
        floats: (n_parameters,) of the model's dtype, shared.
        row_ptrs: Of all truly sparse layers, one behind the other; int64, shared.
        columns: Likewise; int32, shared.
    """

    floats: Tensor
    row_ptrs: Tensor
    columns: Tensor

    @classmethod
    def of(cls, model: nn.Module) -> Mailbox:
        """One with room for a model as it is; it may lose connections later, and not gain any.

        Raises:
            SparsityError: Its parameters are of several dtypes, or not on the CPU.
        """
        parameters = list(model.parameters())
        kinds = {(p.dtype, p.device.type) for p in parameters}
        if len(kinds) != 1 or next(iter(kinds))[1] != "cpu":
            raise SparsityError(
                "the parameters of the model must be on the CPU and of one dtype, got "
                + ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            )
        layers = sparse_layers(model)
        n_floats = sum(p.numel() for p in parameters)
        n_rows = sum(layer.weight_shape[0] + 1 for layer in layers)
        return cls(
            _shared(n_floats, parameters[0].dtype),
            _shared(n_rows, torch.int64),
            _shared(sum(layer.nnz for layer in layers), torch.int32),
        )

    def put_topologies(self, model: nn.Module) -> None:
        """Write the topologies of a model."""
        at_row = at = 0
        for layer in sparse_layers(model):
            row_ptr, columns = layer.topology.csr
            self.row_ptrs[at_row : at_row + len(row_ptr)] = row_ptr
            self.columns[at : at + len(columns)] = columns
            at_row, at = at_row + len(row_ptr), at + len(columns)

    def topologies(self, model: nn.Module) -> list[Topology]:
        """The topologies that were written, for the layers of a model."""
        found, at_row, at = [], 0, 0
        for layer in sparse_layers(model):
            row_ptr = self.row_ptrs[at_row : at_row + layer.weight_shape[0] + 1].clone()
            columns = self.columns[at : at + int(row_ptr[-1])].clone()
            found.append(Topology.from_csr(row_ptr, columns, layer.weight_shape))
            at_row, at = at_row + len(row_ptr), at + len(columns)
        return found

    def put(self, tensors: Sequence[Tensor]) -> None:
        """Write values or gradients, one behind the other."""
        at = 0
        for tensor in tensors:
            self.floats[at : at + tensor.numel()] = tensor.detach().reshape(-1)
            at += tensor.numel()

    def take(self, sizes: Sequence[int]) -> list[Tensor]:
        """Copies of what was written, in pieces of these sizes."""
        pieces = torch.split(self.floats[: sum(sizes)], list(sizes))
        return [piece.clone() for piece in pieces]


def _shared(n: int, dtype: torch.dtype) -> Tensor:
    tensor: Tensor = torch.empty(n, dtype=dtype).share_memory_()  # type: ignore[no-untyped-call]
    return tensor


def sparse_layers(model: nn.Module) -> list[SparseModule]:
    """The truly sparse layers of a model, in its order."""
    return [module for module in model.modules() if isinstance(module, SparseModule)]


def adopt(model: nn.Module, topologies: Sequence[Topology]) -> None:
    """Give the layers other topologies; their values are to be written next."""
    for layer, topology in zip(sparse_layers(model), topologies, strict=True):
        if layer.nnz != topology.nnz:
            resize(layer.values, layer.values.data.new_zeros(topology.nnz))
        layer.adopt(topology)


@torch.no_grad()
def write_parameters(model: nn.Module, box: Mailbox) -> None:
    """Take over the parameters in a mailbox."""
    parameters = list(model.parameters())
    for parameter, piece in zip(parameters, box.take([p.numel() for p in parameters]), strict=True):
        parameter.copy_(piece.view_as(parameter))
