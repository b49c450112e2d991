"""A report as flat numbers, for loggers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from regrow.accounting._report import LayerReport, Report


def metrics_of(report: Report, *, per_layer: bool = False) -> dict[str, float]:
    """Flat names -> numbers, as TensorBoard, W&B and MLflow take them.

    A number that does not exist yet is left out: no churn before the first rewiring, no gradient
    norm unless it was measured on the report's last step. What each means: see ``Report``.

    Args:
        report: What ``updater.report()`` returned.
        per_layer: Whether to add ``regrow/layer/NAME/...``. What MLflow does not allow in a name
            becomes ``_``.

    Returns:
        ``regrow/nnz``, ``sparsity``, ``rewirings``, ``exploration``, ``churn``, ``survival_age``,
        ``survival_age_median``, ``dead_outputs``, ``dead_inputs``, ``collapsed_layers``,
        ``grad_norm``; and for each layer ``nnz``, ``sparsity``, ``exploration``, ``churn``,
        ``survival_age``, ``survival_age_median``, ``dead_outputs``, ``dead_inputs``,
        ``grad_norm``.
    """
    fresh = report.grad_norm_step == report.steps
    numbers = {
        "regrow/nnz": report.nnz,
        "regrow/sparsity": report.sparsity,
        "regrow/rewirings": report.rewirings,
        "regrow/exploration": report.exploration,
        "regrow/churn": report.churn,
        "regrow/survival_age": report.survival_age,
        "regrow/survival_age_median": report.survival_age_median,
        "regrow/dead_outputs": report.n_dead_outputs,
        "regrow/dead_inputs": report.n_dead_inputs,
        "regrow/collapsed_layers": len(report.collapsed),
        "regrow/grad_norm": report.grad_norm if fresh else None,
    }
    if per_layer:
        names = _allowed_names(layer.name for layer in report.layers)
        for name, layer in zip(names, report.layers, strict=True):
            for key, value in _of_layer(layer, fresh=fresh).items():
                numbers[f"regrow/layer/{name}/{key}"] = value
    return {name: float(value) for name, value in numbers.items() if value is not None}


def _of_layer(layer: LayerReport, *, fresh: bool) -> dict[str, float | None]:
    return {
        "nnz": layer.nnz,
        "sparsity": layer.sparsity,
        "exploration": layer.exploration,
        "churn": layer.churn,
        "survival_age": layer.survival_age,
        "survival_age_median": layer.survival_age_median,
        "dead_outputs": layer.n_dead_outputs,
        "dead_inputs": layer.n_dead_inputs,
        "grad_norm": layer.grad_norm if fresh else None,
    }


def _allowed_names(names: Iterable[str]) -> list[str]:
    """Names of the characters that all loggers allow, each of them once."""
    allowed: list[str] = []
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
        unique, n = base, 2
        while unique in allowed:
            unique, n = f"{base}-{n}", n + 1
        allowed.append(unique)
    return allowed
