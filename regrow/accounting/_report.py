"""The report: what a training has done to each layer so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from regrow.accounting._table import text_table


@final
@dataclass(frozen=True)
class LayerReport:
    """One layer.

    Args:
        name: Canonical name.
        shape: Of the weight.
        nnz: Connections now.
        initial_nnz: Connections at the start.
        sparsity: Counted, in [0, 1].
        n_dropped: Units dropped over all rewirings.
        n_grown: Units grown over all rewirings.
        exploration: Fraction of units that were ever active (ITOP's R_s).
    """

    name: str
    shape: tuple[int, ...]
    nnz: int
    initial_nnz: int
    sparsity: float
    n_dropped: int
    n_grown: int
    exploration: float


@final
@dataclass(frozen=True)
class Report:
    """What an updater has done; ``print`` it.

    Args:
        layers: In the order of the model.
        steps: Optimizer steps performed.
        weight_steps: Of these, the ones that moved the weights.
        rewirings: Rewirings done.
        nnz: Connections over all layers.
        sparsity: Over all layers, counted.
        exploration: Over all layers: fraction of units that were ever active.
    """

    layers: tuple[LayerReport, ...]
    steps: int
    weight_steps: int
    rewirings: int
    nnz: int
    sparsity: float
    exploration: float

    def __str__(self) -> str:
        header = ("layer", "nnz", "at start", "sparsity", "dropped", "grown", "explored", "shape")
        rows = [
            (
                layer.name,
                f"{layer.nnz:,}",
                f"{layer.initial_nnz:,}",
                f"{layer.sparsity:.4f}",
                f"{layer.n_dropped:,}",
                f"{layer.n_grown:,}",
                f"{layer.exploration:.4f}",
                "x".join(map(str, layer.shape)),
            )
            for layer in self.layers
        ]
        summary = (
            f"{self.steps} steps ({self.weight_steps} moved the weights), {self.rewirings} "
            f"rewirings; nnz {self.nnz:,}, sparsity {self.sparsity:.4f}, "
            f"exploration {self.exploration:.4f}"
        )
        return f"{text_table(header, rows, last_left=True)}\n\n{summary}"
