"""What an updater says of itself: plan, report, training FLOPs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from regrow.accounting import LayerReport, Plan, Report, attribute, make_plan
from regrow.allocation import Allocation
from regrow.schedules import UpdateWindow
from regrow.topology import Topology
from regrow.training._layers import MaskedWeight
from regrow.training._progress import Progress
from regrow.training._weights import dense_reasons


def plan_of(
    model: nn.Module,
    topologies: Mapping[str, Topology],
    inputs: object,
    *,
    allocation: Allocation | None,
    window: UpdateWindow | None,
    target: float | None,
) -> Plan:
    """The plan of an updater; arguments as it holds them."""
    reasons = dense_reasons(model, topologies)
    falls = target is not None and window is not None
    for name, topology in topologies.items():
        if topology.sparsity == 0:
            if falls:
                reasons[name] = "full now, may be pruned later"
            elif all(t.sparsity == 0 for t in topologies.values()):
                reasons[name] = "full: sparsity 0 was asked for"
            else:
                rule = "the allocation" if allocation is None else str(allocation)
                reasons[name] = f"full: its share under {rule} reaches all its connections"
    notes = []
    if window is not None:
        notes.append(
            f"{len(window.steps)} rewirings planned: every {window.interval} steps, first at step "
            f"{window.steps[0]}, last at step {window.last}"
        )
    else:
        notes.append("no rewiring: the topology stays")
    if falls:
        notes.append(f"sparsity at the last rewiring: {target:.4f}")
    return make_plan(model, topologies, inputs, reasons=reasons, notes=tuple(notes))


def report_of(layers: Sequence[MaskedWeight], progress: Progress, *, weight_steps: int) -> Report:
    """The report of an updater."""
    history = progress.history
    rows = [
        LayerReport(
            name=layer.name,
            shape=layer.topology.shape,
            nnz=layer.topology.nnz,
            initial_nnz=progress.initial_nnz[i],
            sparsity=layer.topology.sparsity,
            n_dropped=sum(record.n_dropped[i] for record in history),
            n_grown=sum(record.n_grown[i] for record in history),
            exploration=int(layer.ever_active.count_nonzero()) / layer.topology.n_units,
        )
        for i, layer in enumerate(layers)
    ]
    nnz = sum(row.nnz for row in rows)
    n_units = [layer.topology.n_units for layer in layers]
    ever = sum(row.exploration * n for row, n in zip(rows, n_units, strict=True))
    return Report(
        layers=tuple(rows),
        steps=progress.steps,
        weight_steps=weight_steps,
        rewirings=len(history),
        nnz=nnz,
        sparsity=1 - nnz / sum(layer.topology.n_elements for layer in layers),
        exploration=ever / sum(n_units),
    )


def training_flops_of(
    model: nn.Module,
    layers: Sequence[MaskedWeight],
    progress: Progress,
    inputs: object,
    *,
    reads_gradient: bool,
) -> int:
    """FLOPs of all steps so far: 3 f_S each, and 2 f_S + f_D where the dense gradient is read."""
    total, costs = attribute(model, inputs)
    dense = [costs[layer.name].flops for layer in layers]
    rest = total - sum(dense)
    sizes = [layer.topology.n_elements for layer in layers]

    def forward(nnz: Sequence[int]) -> float:
        return rest + sum(f * n / size for f, n, size in zip(dense, nnz, sizes, strict=True))

    flops, done, nnz = 0.0, 0, progress.initial_nnz
    for record in progress.history:
        steps = record.step - done
        flops += 3 * forward(nnz) * steps
        if reads_gradient:
            flops += total - forward(nnz)
        done, nnz = record.step, list(record.nnz)
    flops += 3 * forward(nnz) * (progress.steps - done)
    return round(flops)
