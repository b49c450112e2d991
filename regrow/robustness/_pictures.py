"""The pictures of a report, made from a study's tables."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from regrow.robustness._rows import Row
from regrow.robustness._summary import Arm, ArmSummary, Set, Summary
from regrow.study import (
    COLOURS,
    METHODS,
    Estimate,
    Panel,
    Series,
    heat_maps,
    image_grid,
    line_panels,
)

Accuracies = Mapping[Arm, Mapping[int, Mapping[Set, float]]]


def colour(method: str) -> str:
    """A method's colour, the same in all pictures."""
    return COLOURS[METHODS.index(method) % len(COLOURS)]


def accuracy_picture(summary: Summary) -> bytes:
    """Corrupted accuracy, clean accuracy and the difference to dense, against sparsity.

    Args:
        summary: What the study says.

    Returns:
        An SVG file.
    """
    sparsities = sorted({arm.sparsity for arm in summary.arms if arm.method != "dense"})
    ticks = {float(i): f"{sparsity:g}" for i, sparsity in enumerate(sparsities or [0.0])}
    common = summary.n_common > 0
    kinds = summary.common_name if common else f"all {len(summary.corruptions)}"

    gain = "percentage points"

    def panel(
        title: str, label: str, values: Sequence[tuple[ArmSummary, Estimate | None]]
    ) -> Panel:
        return Panel(
            title,
            "sparsity",
            label,
            _against_sparsity(values, sparsities, paired=label == gain),
            x_ticks=ticks,
            zero_line=label == gain,
        )

    corrupted = [(arm, arm.common if common else arm.everything) for arm in summary.arms]
    clean = [(arm, arm.clean) for arm in summary.arms]
    panels = [
        panel(f"{kinds} corruptions", "accuracy in %", corrupted),
        panel("clean images", "accuracy in %", clean),
    ]
    gains = [
        (arm, arm.versus_dense.common if common else arm.versus_dense.everything)
        for arm in summary.arms
        if arm.versus_dense is not None
    ]
    if gains:
        panels.append(panel("corrupted, difference to dense", gain, gains))
    return line_panels(panels)


def _against_sparsity(
    values: Sequence[tuple[ArmSummary, Estimate | None]],
    sparsities: Sequence[float],
    *,
    paired: bool,
) -> list[Series]:
    """One line a method; methods stand beside each other so that bars do not overlap."""
    known = [(arm, estimate) for arm, estimate in values if estimate is not None]
    methods = list(dict.fromkeys(arm.method for arm, _ in known))
    others = [method for method in methods if method != "dense"]
    lines = []
    for method in methods:
        chosen = [(arm.sparsity, estimate) for arm, estimate in known if arm.method == method]
        estimates = [estimate for _, estimate in chosen]
        bars = [_bar(estimate, paired=paired) for estimate in estimates]
        if method == "dense":
            # Dense training has no sparsity: a line across, with its bar at the left edge.
            x = [-0.45, max(len(sparsities) - 1, 0) + 0.45]
            estimates, bars = 2 * estimates, [*bars, (math.nan, math.nan)]
        else:
            offset = 0.7 * ((others.index(method) + 0.5) / len(others) - 0.5)
            x = [sparsities.index(sparsity) + offset for sparsity, _ in chosen]
        lines.append(
            Series(
                method,
                x,
                [100 * estimate.mean for estimate in estimates],
                [100 * low for low, _ in bars],
                [100 * high for _, high in bars],
                colour=colour(method),
                dashed=method == "dense",
                markers=method != "dense",
            )
        )
    return lines


def _bar(estimate: Estimate, *, paired: bool) -> tuple[float, float]:
    """The interval of a paired difference, or the lowest and highest seed of an arm by itself."""
    if not paired:
        return min(estimate.values), max(estimate.values)
    if estimate.low is None or estimate.high is None:
        return math.nan, math.nan
    return estimate.low, estimate.high


def gain_picture(summary: Summary, accuracies: Accuracies, *, sparsity: float) -> bytes | None:
    """Difference to dense training for every corruption and severity, one map a method.

    Args:
        summary: What the study says.
        accuracies: What was measured.
        sparsity: Arms of this sparsity.

    Returns:
        An SVG file, or None where nothing can be compared.
    """
    dense = accuracies.get(("dense", 0.0))
    arms = [a for a in summary.arms if a.method != "dense" and a.sparsity == sparsity]
    if dense is None or not arms:
        return None
    maps = []
    for arm in arms:
        own = accuracies[arm.method, arm.sparsity]
        seeds = sorted(own.keys() & dense)
        gains = [
            [
                100 * math.fsum(own[s][kind, level] - dense[s][kind, level] for s in seeds)
                / len(seeds) if seeds else math.nan
                for level in summary.severities
            ]
            for kind in summary.corruptions
        ]  # fmt: skip
        maps.append((arm.method.replace("-equal-", "-equal-\n"), np.array(gains)))
    return heat_maps(
        maps,
        rows=[words(kind) for kind in summary.corruptions],
        columns=[str(severity) for severity in summary.severities],
        label="percentage points to dense",
        column_label="severity",
    )


def curve_picture(curves: Sequence[Row], *, sparsity: float) -> bytes | None:
    """Loss, accuracy and exploration during training, means over the seeds.

    Args:
        curves: Rows of ``curves.csv``.
        sparsity: Arms of this sparsity, and dense training.

    Returns:
        An SVG file, or None where there is no row.
    """
    methods = [method for method in METHODS if any(_is_of(row, method, sparsity) for row in curves)]
    if not methods:
        return None
    panels = []
    for name, title, label, factor in (
        ("loss", "training loss", "cross-entropy", 1.0),
        ("accuracy", "training accuracy", "%", 100.0),
        ("exploration", "connections ever active", "%", 100.0),
    ):
        series = []
        for method in methods:
            by_epoch: dict[int, list[float]] = {}
            for row in curves:
                if _is_of(row, method, sparsity):
                    by_epoch.setdefault(row["epoch"], []).append(factor * row[name])
            epochs = sorted(by_epoch)
            means = [math.fsum(by_epoch[e]) / len(by_epoch[e]) for e in epochs]
            series.append(
                Series(
                    method,
                    epochs,
                    means,
                    colour=colour(method),
                    dashed=method == "dense",
                    markers=len(epochs) < 2,
                )
            )
        panels.append(Panel(title, "epoch", label, series))
    return line_panels(panels)


def _is_of(row: Row, method: str, sparsity: float) -> bool:
    return bool(row["method"] == method and (row["sparsity"] == sparsity or method == "dense"))


def example_picture(examples: Mapping[Set, np.ndarray], summary: Summary) -> bytes | None:
    """One image under every corruption.

    Args:
        examples: (Corruption, severity) -> uint8 (H, W, 3).
        summary: What the study says.

    Returns:
        An SVG file, or None without examples.
    """
    if not examples:
        return None
    clean = examples.get(("clean", 0))
    rows = [
        [
            clean if i == 0 else None,
            *(examples.get((kind, severity)) for kind in summary.corruptions),
        ]
        for i, severity in enumerate(summary.severities)
    ]
    return image_grid(
        rows,
        columns=["clean", *(words(kind) for kind in summary.corruptions)],
        rows=[f"severity {severity}" for severity in summary.severities],
        inches=0.62,
    )


def words(kind: str) -> str:
    """A corruption's name in words."""
    return kind.replace("_", " ")
