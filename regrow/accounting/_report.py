"""The report: what a training has done to each layer so far, and whether it is healthy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from regrow.accounting._table import text_table


@final
@dataclass(frozen=True)
class LayerReport:
    """One layer. Churn, exploration and ages count units, whatever the structure makes a unit.

    Args:
        name: Canonical name.
        shape: Of the weight.
        nnz: Connections now.
        initial_nnz: Connections at the start.
        sparsity: Counted, in [0, 1].
        n_dropped: Units dropped over all rewirings.
        n_grown: Units grown over all rewirings.
        exploration: Fraction of units that were ever active (ITOP's R_s, Liu et al. 2021,
            section 3). None, as ages are, of a truly sparse layer, which does not keep its past.
        churn: Of the units that were active behind the last rewiring the layer took part in, the
            fraction that was not active before it; None before the first. A unit that was dropped
            and came back at once is not new.
        survival_age: Optimizer steps that an active unit has lived, on average; one that was
            dropped and started again at zero lives since then. None without active units.
        survival_age_median: The median of the same; of an even number the lower middle one.
        n_outputs: Outputs of the layer (neurons, channels); 0 where the weight has fewer than two
            dimensions.
        n_dead_outputs: Outputs without any connection: they give their bias, whatever comes in.
            Counted in the topology; a neuron whose activation is never positive (dormant, dying
            ReLU) has its connections and is not counted.
        n_inputs: Inputs of the layer.
        n_dead_inputs: Inputs without any connection: what feeds them is not used by this layer.
        is_collapsed: Whether the layer has no connection left, or below 1 % of what it would have
            if its share of all connections were still that of the start; see
            ``regrow.training.COLLAPSE_SHARE``.
        grad_norm: As the report's, of this layer alone.
    """

    name: str
    shape: tuple[int, ...]
    nnz: int
    initial_nnz: int
    sparsity: float
    n_dropped: int
    n_grown: int
    exploration: float | None
    churn: float | None
    survival_age: float | None
    survival_age_median: int | None
    n_outputs: int
    n_dead_outputs: int
    n_inputs: int
    n_dead_inputs: int
    is_collapsed: bool
    grad_norm: float | None


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
        exploration: Over all layers: fraction of units that were ever active; None where one of
            them is truly sparse.
        churn: New units of the last rewiring, over the active units of all layers that took part
            in it; None before the first.
        survival_age: Mean over the active units of all layers, in optimizer steps; None without
            any.
        survival_age_median: The median of the same.
        grad_norm: L2 norm of the gradient over the connections of all layers, as the optimizer
            got it: averaged over ranks, unscaled, behind any clipping. Dense weights and biases
            are not in it. None unless it was measured, which happens only on steps that a callback
            of ``on_metrics`` hears of.
        grad_norm_step: The step it was measured on.
    """

    layers: tuple[LayerReport, ...]
    steps: int
    weight_steps: int
    rewirings: int
    nnz: int
    sparsity: float
    exploration: float | None
    churn: float | None
    survival_age: float | None
    survival_age_median: int | None
    grad_norm: float | None
    grad_norm_step: int | None

    @property
    def n_dead_outputs(self) -> int:
        """Outputs without any connection, over all layers."""
        return sum(layer.n_dead_outputs for layer in self.layers)

    @property
    def n_dead_inputs(self) -> int:
        """Inputs without any connection, over all layers."""
        return sum(layer.n_dead_inputs for layer in self.layers)

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Names of the layers that have collapsed."""
        return tuple(layer.name for layer in self.layers if layer.is_collapsed)

    def __str__(self) -> str:
        return "\n\n".join([_counts_table(self), _health_table(self), "\n".join(_summary(self))])


def _counts_table(report: Report) -> str:
    header = ("layer", "nnz", "at start", "sparsity", "dropped", "grown", "explored", "shape")
    rows = [
        (
            layer.name,
            f"{layer.nnz:,}",
            f"{layer.initial_nnz:,}",
            f"{layer.sparsity:.4f}",
            f"{layer.n_dropped:,}",
            f"{layer.n_grown:,}",
            _number(layer.exploration, ".4f"),
            "x".join(map(str, layer.shape)),
        )
        for layer in report.layers
    ]
    return text_table(header, rows, last_left=True)


def _health_table(report: Report) -> str:
    header = ("layer", "churn", "mean age", "median age", "dead outputs", "dead inputs")
    rows = [
        (
            layer.name,
            _number(layer.churn, ".4f"),
            _number(layer.survival_age, ",.1f"),
            _number(layer.survival_age_median, ","),
            f"{layer.n_dead_outputs:,} of {layer.n_outputs:,}",
            f"{layer.n_dead_inputs:,} of {layer.n_inputs:,}",
        )
        for layer in report.layers
    ]
    return text_table(header, rows)


def _summary(report: Report) -> list[str]:
    lines = [
        f"{report.steps} steps ({report.weight_steps} moved the weights), {report.rewirings} "
        f"rewirings; nnz {report.nnz:,}, sparsity {report.sparsity:.4f}, "
        f"exploration {_number(report.exploration, '.4f')}",
        f"churn {_number(report.churn, '.4f')}, mean age {_number(report.survival_age, ',.1f')}, "
        f"median {_number(report.survival_age_median, ',')} steps; "
        f"{report.n_dead_outputs:,} dead outputs, {report.n_dead_inputs:,} dead inputs",
    ]
    if report.grad_norm is not None:
        lines.append(f"gradient norm {report.grad_norm:.4g} at step {report.grad_norm_step}")
    lines += [
        f"COLLAPSED: {layer.name} has {layer.nnz:,} of {layer.initial_nnz:,} connections left"
        for layer in report.layers
        if layer.is_collapsed
    ]
    return lines


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
