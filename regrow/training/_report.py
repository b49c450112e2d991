"""What an updater says of itself: plan, report, training FLOPs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from regrow.accounting import LayerReport, Plan, Report, attribute, make_plan
from regrow.training._health import (
    Ages,
    Neurons,
    ages_of,
    churn_of_all,
    churn_of_layer,
    cohorts_of,
    collapsed_layers,
    exploration_of,
    neurons_of,
    owners_of,
)
from regrow.training._layer import Layer
from regrow.training._metrics import GradNorms
from regrow.training._progress import Progress
from regrow.training._rule import Part
from regrow.training._weights import dense_reasons


def plan_of(model: nn.Module, parts: Sequence[Part], inputs: object) -> Plan:
    """The plan of an updater; arguments as it holds them."""
    topologies = {layer.name: layer.topology for part in parts for layer in part.layers}
    reasons = dense_reasons(model, topologies)
    notes = []
    for part in parts:
        reasons |= _why_full(part)
        where = "" if len(parts) == 1 else f"{part.layers[0].name}, ...: "
        notes += [where + note for note in _notes(part)]
    return make_plan(model, topologies, inputs, reasons=reasons, notes=tuple(notes))


def _why_full(part: Part) -> dict[str, str]:
    full = [layer.name for layer in part.layers if layer.topology.sparsity == 0]
    if part.last_target is not None:
        return dict.fromkeys(full, "full now, may be pruned later")
    if len(full) == len(part.layers):
        return dict.fromkeys(full, "full: sparsity 0 was asked for")
    rule = "the allocation" if part.allocation is None else str(part.allocation)
    return dict.fromkeys(full, f"full: its share under {rule} reaches all its connections")


def _notes(part: Part) -> list[str]:
    if part.rule is None:
        return ["no rewiring: the topology stays"]
    window = part.rule.window
    notes = [
        f"{len(window.steps)} rewirings planned: every {window.interval} steps, first at step "
        f"{window.steps[0]}, last at step {window.last}"
    ]
    if part.last_target is not None:
        notes.append(f"sparsity at the last rewiring: {part.last_target:.4f}")
    return notes


def report_of(
    model: nn.Module,
    parts: Sequence[Part],
    progress: Progress,
    *,
    weight_steps: int,
    norms: GradNorms | None,
) -> Report:
    """The report of an updater; arguments as it holds them."""
    layers = [layer for part in parts for layer in part.layers]
    cohorts = cohorts_of(layers, len(progress.history))
    owners, collapsed = owners_of(model), collapsed_layers(parts, progress)
    rows = [
        _row(
            layer,
            progress,
            i,
            ages=ages_of([cohorts[i]], progress),
            neurons=neurons_of(layer.topology, owners.get(layer.name)),
            is_collapsed=collapsed[layer.name],
            grad_norm=None if norms is None else norms.by_layer.get(layer.name),
        )
        for i, layer in enumerate(layers)
    ]
    nnz = sum(row.nnz for row in rows)
    ages = ages_of(cohorts, progress)
    return Report(
        layers=tuple(rows),
        steps=progress.steps,
        weight_steps=weight_steps,
        rewirings=len(progress.history),
        nnz=nnz,
        sparsity=1 - nnz / sum(layer.topology.n_elements for layer in layers),
        exploration=exploration_of(layers),
        churn=churn_of_all(progress, [layer.topology.unit_size for layer in layers]),
        survival_age=ages.mean,
        survival_age_median=ages.median,
        grad_norm=None if norms is None else norms.total,
        grad_norm_step=None if norms is None else norms.step,
    )


def _row(
    layer: Layer,
    progress: Progress,
    index: int,
    *,
    ages: Ages,
    neurons: Neurons,
    is_collapsed: bool,
    grad_norm: float | None,
) -> LayerReport:
    topology = layer.topology
    return LayerReport(
        name=layer.name,
        shape=topology.shape,
        nnz=topology.nnz,
        initial_nnz=progress.initial_nnz[index],
        sparsity=topology.sparsity,
        n_dropped=sum(record.n_dropped[index] for record in progress.history),
        n_grown=sum(record.n_grown[index] for record in progress.history),
        exploration=exploration_of([layer]),
        churn=churn_of_layer(progress, index, topology.unit_size),
        survival_age=ages.mean,
        survival_age_median=ages.median,
        n_outputs=neurons.n_outputs,
        n_dead_outputs=neurons.n_dead_outputs,
        n_inputs=neurons.n_inputs,
        n_dead_inputs=neurons.n_dead_inputs,
        is_collapsed=is_collapsed,
        grad_norm=grad_norm,
    )


def training_flops_of(
    model: nn.Module, parts: Sequence[Part], progress: Progress, inputs: object
) -> int:
    """FLOPs of all steps so far: 3 f_S each, and a dense weight gradient where one is read."""
    layers = [layer for part in parts for layer in part.layers]
    reads = [part.reads_gradient for part in parts for _ in part.layers]
    total, costs = attribute(model, inputs)
    dense = [costs[layer.name].flops for layer in layers]
    sizes = [layer.topology.n_elements for layer in layers]
    rest = total - sum(dense)

    def live(nnz: Sequence[int]) -> list[float]:
        return [f * n / size for f, n, size in zip(dense, nnz, sizes, strict=True)]

    flops, done, nnz = 0.0, 0, progress.initial_nnz
    for record in progress.history:
        forward = live(nnz)
        flops += 3 * (rest + sum(forward)) * (record.step - done)
        flops += sum(
            whole - part
            for whole, part, read, due in zip(dense, forward, reads, record.took_part, strict=True)
            if read and due and not record.is_edit
        )
        done, nnz = record.step, list(record.nnz)
    flops += 3 * (rest + sum(live(nnz))) * (progress.steps - done)
    return round(flops)
