"""What a study's tables say about each arm."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from regrow._checks import check_choice
from regrow.robustness._results import Results
from regrow.robustness._rows import COSTS, COUNTS, Row
from regrow.robustness.corruptions import ALL, COMMON
from regrow.study import METHODS, Estimate, mean_interval, paired_difference

CLEAN = "clean"
Arm = tuple[str, float]
"""Method and target sparsity."""
Set = tuple[str, int]
"""Corruption and severity."""


@final
@dataclass(frozen=True)
class Comparison:
    """One arm beside another, in differences of accuracy over paired seeds.

    Args:
        common: Mean over the common corruptions; None where the study has none of them.
        everything: Mean over all corruptions of the study.
        clean: On clean images.
    """

    common: Estimate | None
    everything: Estimate | None
    clean: Estimate | None


@final
@dataclass(frozen=True)
class ArmSummary:
    """What is known about one arm.

    Args:
        method: Its method.
        sparsity: Its target sparsity.
        n_seeds: Its runs.
        common: Accuracy, mean over the common corruptions and their severities; None without any.
        everything: Accuracy, mean over all corruptions of the study and their severities.
        clean: Accuracy on clean images.
        versus_dense: The arm less dense training; None for dense training itself and without it.
        versus_static: The arm less static sparse training at the same sparsity; None likewise.
        costs: Name of a count or cost -> its mean over the runs.
    """

    method: str
    sparsity: float
    n_seeds: int
    common: Estimate | None
    everything: Estimate
    clean: Estimate
    versus_dense: Comparison | None
    versus_static: Comparison | None
    costs: Mapping[str, float]

    @property
    def name(self) -> str:
        """The arm in words, such as ``"rigl 0.5"``."""
        return self.method if self.method == "dense" else f"{self.method} {self.sparsity:g}"


@final
@dataclass(frozen=True)
class Summary:
    """What a study says.

    Args:
        data: Name of the data set.
        model: Name of the model.
        arms: Its arms, dense first.
        corruptions: Its corruptions, in the order of the benchmark.
        severities: Its severities, rising.
        n_seeds: Seeds that every arm has.
    """

    data: str
    model: str
    arms: Sequence[ArmSummary]
    corruptions: Sequence[str]
    severities: Sequence[int]
    n_seeds: int

    @property
    def n_common(self) -> int:
        """How many of the common corruptions there are."""
        return sum(kind in COMMON for kind in self.corruptions)

    @property
    def common_name(self) -> str:
        """``"15 common"``, or ``"14 of 15 common"`` where some are missing."""
        n = self.n_common
        return f"{n} common" if n == len(COMMON) else f"{n} of {len(COMMON)} common"


def summarise(results: Results) -> Summary:
    """Average a study's tables over corruptions and compare its arms over paired seeds.

    Args:
        results: Tables of complete runs: each has clean images and the same corrupted sets.

    Returns:
        The summary.

    Raises:
        ValueError: There is no run, a measurement stands twice, or a run lacks a set that another
            has.
    """
    accuracies = accuracies_by_arm(results.results)
    if not accuracies:
        raise ValueError("no run is complete yet, so there is nothing to report")
    sets = _same_sets(accuracies)
    kinds = {kind for kind, _ in sets} - {CLEAN}
    order = [*ALL, *sorted(kinds - set(ALL))]
    arms = sorted(accuracies, key=lambda arm: (METHODS.index(arm[0]), arm[1]))
    costs = _mean_costs(results.runs)
    return Summary(
        data=results.results[0]["data"],
        model=results.results[0]["model"],
        arms=[_summarise_arm(arm, accuracies, costs.get(arm, {})) for arm in arms],
        corruptions=[kind for kind in order if kind in kinds],
        severities=sorted({severity for kind, severity in sets if kind != CLEAN}),
        n_seeds=len(set.intersection(*(set(by_seed) for by_seed in accuracies.values()))),
    )


def accuracies_by_arm(rows: Sequence[Row]) -> dict[Arm, dict[int, dict[Set, float]]]:
    """Sort measurements by arm, seed and set.

    Args:
        rows: Rows of ``results.csv``.

    Returns:
        Arm -> seed -> (corruption, severity) -> accuracy.

    Raises:
        ValueError: A measurement stands twice, or a method is unknown.
    """
    table: dict[Arm, dict[int, dict[Set, float]]] = {}
    for row in rows:
        check_choice(row["method"], "method", METHODS)
        by_seed = table.setdefault((row["method"], row["sparsity"]), {})
        by_set = by_seed.setdefault(row["seed"], {})
        key = row["corruption"], row["severity"]
        if key in by_set:
            raise ValueError(f"the results name {key} of {row['method']} twice for one seed")
        by_set[key] = row["accuracy"]
    return table


def _same_sets(accuracies: Mapping[Arm, Mapping[int, Mapping[Set, float]]]) -> set[Set]:
    """The sets of images that every run was measured on."""
    runs = [
        (f"{method} at sparsity {sparsity:g}, seed {seed}", set(by_set))
        for (method, sparsity), by_seed in accuracies.items()
        for seed, by_set in by_seed.items()
    ]
    first, sets = runs[0]
    if (CLEAN, 0) not in sets or len(sets) < 2:
        raise ValueError(f"{first} lacks clean images or corrupted ones")
    for run, others in runs:
        if others != sets:
            raise ValueError(f"{first} and {run} differ in {sorted(sets ^ others)[:3]}")
    return sets


def _summarise_arm(
    arm: Arm,
    accuracies: Mapping[Arm, Mapping[int, Mapping[Set, float]]],
    costs: Mapping[str, float],
) -> ArmSummary:
    method, sparsity = arm
    means = _means(accuracies[arm])
    dense, static = ("dense", 0.0), ("static", sparsity)
    common = means["common"]
    return ArmSummary(
        method=method,
        sparsity=sparsity,
        n_seeds=len(accuracies[arm]),
        common=mean_interval(list(common.values())) if common else None,
        everything=mean_interval(list(means["everything"].values())),
        clean=mean_interval(list(means["clean"].values())),
        versus_dense=_compare(means, accuracies.get(dense)) if arm != dense else None,
        versus_static=_compare(means, accuracies.get(static))
        if method not in ("dense", "static")
        else None,
        costs=costs,
    )


def _means(by_seed: Mapping[int, Mapping[Set, float]]) -> dict[str, dict[int, float]]:
    """Seed -> accuracy: over the common corruptions, over all of them, on clean images."""
    means: dict[str, dict[int, float]] = {"common": {}, "everything": {}, "clean": {}}
    for seed, by_set in by_seed.items():
        corrupted = {key: value for key, value in by_set.items() if key[0] != CLEAN}
        common = [value for (kind, _), value in corrupted.items() if kind in COMMON]
        if common:
            means["common"][seed] = math.fsum(common) / len(common)
        means["everything"][seed] = math.fsum(corrupted.values()) / len(corrupted)
        means["clean"][seed] = by_set[CLEAN, 0]
    return means


def _compare(
    means: Mapping[str, Mapping[int, float]],
    control: Mapping[int, Mapping[Set, float]] | None,
) -> Comparison | None:
    if control is None:
        return None
    other = _means(control)
    return Comparison(**{name: paired_difference(means[name], other[name]) for name in means})


def _mean_costs(runs: Sequence[Row]) -> dict[Arm, dict[str, float]]:
    """Arm -> name -> mean over its runs."""
    by_arm: dict[Arm, list[Row]] = {}
    for row in runs:
        by_arm.setdefault((row["method"], row["sparsity"]), []).append(row)
    names = (*COUNTS, *COSTS, "counted_sparsity", "exploration")
    return {
        arm: {name: math.fsum(row[name] for row in rows) / len(rows) for name in names}
        for arm, rows in by_arm.items()
    }
