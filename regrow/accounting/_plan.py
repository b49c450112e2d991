"""The plan: before training, every tensor and what it will cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import nn

from regrow._names import owned_parameters
from regrow.accounting._count import CostReport, count
from regrow.accounting._table import in_units, text_table
from regrow.topology import Topology


@final
@dataclass(frozen=True)
class PlanRow:
    """One tensor of the model.

    Args:
        name: Canonical name; all names where it is tied.
        shape: Of the tensor.
        structure: What a unit is, or "" where the tensor is dense.
        nnz: Connections that exist.
        sparsity: Counted, in [0, 1].
        flops: Of the forward pass on the inputs passed, or None without inputs.
        bytes: Live values, and one mask bit an element or, truly sparse, an int32 column each.
        reason: Why it is dense or full, or "".
    """

    name: str
    shape: tuple[int, ...]
    structure: str
    nnz: int
    sparsity: float
    flops: int | None
    bytes: int
    reason: str


@final
@dataclass(frozen=True)
class Plan:
    """A table of every tensor; ``print`` it.

    Args:
        rows: One a tensor, in the order of the model.
        cost: Of the whole model on the inputs passed, or None without inputs.
        notes: What holds for all of it: rewirings, the target.
    """

    rows: tuple[PlanRow, ...]
    cost: CostReport | None
    notes: tuple[str, ...] = ()

    @property
    def full_layers(self) -> tuple[str, ...]:
        """Selected layers that the allocation makes dense."""
        return tuple(row.name for row in self.rows if row.structure and row.sparsity == 0)

    @property
    def sparsity(self) -> float:
        """Counted over the selected layers."""
        chosen = [row for row in self.rows if row.structure]
        n_elements = sum(_n_elements(row) for row in chosen)
        return 1 - sum(row.nnz for row in chosen) / n_elements if n_elements else 0.0

    def __str__(self) -> str:
        rows = [
            (
                row.name,
                "x".join(map(str, row.shape)) or "scalar",
                row.structure or "dense",
                f"{row.nnz:,}",
                f"{row.sparsity:.4f}",
                "" if row.flops is None else in_units(row.flops),
                in_units(row.bytes, "B"),
                row.reason,
            )
            for row in self.rows
        ]
        header = ("tensor", "shape", "structure", "nnz", "sparsity", "FLOPs", "bytes", "reason")
        table = text_table(header, rows, last_left=True)
        return "\n".join([table, "", *self._summary()])

    def _summary(self) -> list[str]:
        chosen = [row for row in self.rows if row.structure]
        nnz, total = sum(row.nnz for row in chosen), sum(_n_elements(row) for row in chosen)
        lines = [
            f"{len(chosen)} sparse tensors, {len(self.full_layers)} of them full: "
            f"{nnz:,} of {total:,} connections, sparsity {self.sparsity:.4f}; "
            f"{len(self.rows) - len(chosen)} tensors stay dense"
        ]
        if self.cost is not None:
            sparse, dense = self.cost.forward_flops, self.cost.dense_forward_flops
            ratio = f" ({sparse / dense:.4f} of it)" if dense else ""
            lines.append(
                f"forward pass: {in_units(sparse, 'FLOPs')}, dense {in_units(dense, 'FLOPs')}"
                f"{ratio}; size: {in_units(self.cost.bytes, 'B')}, "
                f"dense {in_units(self.cost.dense_bytes, 'B')}"
            )
        return [*lines, *self.notes]


def make_plan(
    model: nn.Module,
    topologies: Mapping[str, Topology],
    inputs: object,
    *,
    reasons: Mapping[str, str],
    notes: tuple[str, ...] = (),
) -> Plan:
    """Describe a model under topologies.

    Args:
        model: Any module.
        topologies: Name -> topology of each selected weight.
        inputs: An example batch, a tuple of positional arguments, or None for no FLOPs.
        reasons: Name -> why a tensor is dense or full.
        notes: Lines for the end.
    """
    cost = None if inputs is None else count(model, inputs, topologies)
    rows = []
    for one in owned_parameters(model):
        topology = topologies.get(one.name)
        parameter = one.parameter
        n = math.prod(one.shape)
        nnz = n if topology is None else topology.nnz
        is_compact = topology is not None and topology.is_compact
        place_bytes = 4 * nnz if is_compact else -(-n // 8) if nnz < n else 0
        rows.append(
            PlanRow(
                name=" = ".join(name for name, _, _ in one.owners),
                shape=one.shape,
                structure="" if topology is None else str(topology.structure),
                nnz=nnz,
                sparsity=0.0 if topology is None else topology.sparsity,
                flops=None if cost is None else cost.layer_flops.get(one.name, 0),
                bytes=nnz * parameter.element_size() + place_bytes,
                reason=reasons.get(one.name, ""),
            )
        )
    return Plan(tuple(rows), cost, notes)


def _n_elements(row: PlanRow) -> int:
    n = 1
    for size in row.shape:
        n *= size
    return n
