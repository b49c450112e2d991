"""The tables of a study: one row a measurement, one row a run, one row an epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from regrow.robustness._job import Job
from regrow.study import Cell, StudyFolder, read_csv, write_csv

_RUN = ("data", "model", "method", "sparsity", "seed")
RESULT_COLUMNS = (*_RUN, "corruption", "severity", "accuracy", "n_images")
COUNTS = ("nnz", "parameters", "live_parameters", "rewirings", "weight_steps")
COSTS = ("training_flops", "inference_flops", "bytes", "seconds")
RUN_COLUMNS = (*_RUN, *COUNTS, "counted_sparsity", "exploration", *COSTS)
CURVE_COLUMNS = (*_RUN, "epoch", "loss", "accuracy", "lr", "rewirings", "exploration")
_TEXTS = ("data", "model", "method", "corruption")
_WHOLE = ("seed", "severity", "n_images", "epoch", *COUNTS, "training_flops", "inference_flops",
          "bytes")  # fmt: skip

Row = Mapping[str, Any]


@final
@dataclass(frozen=True)
class Results:
    """What a study has measured.

    Args:
        results: Rows of ``results.csv``: one accuracy each, clean ones with severity 0.
        runs: Rows of ``runs.csv``: counts and costs of each run.
        curves: Rows of ``curves.csv``: the training of each run, epoch by epoch.
    """

    results: Sequence[Row]
    runs: Sequence[Row]
    curves: Sequence[Row]


def collect(job: Job, folder: StudyFolder) -> Results:
    """Gather the tables from the cells that are done.

    Args:
        job: The study.
        folder: Where its cells are.
    """
    results, runs, curves = [], [], []
    for cell in job.cells():
        if not folder.is_done(cell):
            continue
        done = folder.read_result(cell)
        head = _head(job, cell)
        n_images = {"n_images": len(job.test)}
        results += [{**head, **row, **n_images} for row in done["accuracies"]]
        runs.append({**head, **done["run"]})
        curves += [{**head, **row} for row in done["history"]]
    return Results(results, runs, curves)


def _head(job: Job, cell: Cell) -> dict[str, Any]:
    return {
        "data": job.data.name,
        "model": job.model_name,
        "method": cell.method,
        "sparsity": cell.sparsity,
        "seed": cell.seed,
    }


def write_results(results: Results, root: Path) -> None:
    """Write the three tables into a folder.

    Args:
        results: The tables.
        root: The folder.
    """
    write_csv(root / "results.csv", results.results, columns=RESULT_COLUMNS)
    write_csv(root / "runs.csv", results.runs, columns=RUN_COLUMNS)
    write_csv(root / "curves.csv", results.curves, columns=CURVE_COLUMNS)


def read_results(root: Path) -> Results:
    """Read the tables of a study's folder back.

    Args:
        root: The folder. It may lack ``curves.csv``.

    Returns:
        The tables, numbers as numbers.

    Raises:
        FileNotFoundError: ``results.csv`` or ``runs.csv`` is missing.
        ValueError: A file is damaged; the message names it.
    """
    curves = root / "curves.csv"
    return Results(
        _read(root / "results.csv", RESULT_COLUMNS),
        _read(root / "runs.csv", RUN_COLUMNS),
        _read(curves, CURVE_COLUMNS) if curves.exists() else [],
    )


def _read(path: Path, columns: Sequence[str]) -> list[Row]:
    rows: list[Row] = []
    for number, row in enumerate(read_csv(path, columns=columns), start=2):
        try:
            rows.append({name: _value(name, row[name]) for name in columns})
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return rows


def _value(name: str, field: str) -> str | int | float:
    if name in _TEXTS:
        return field
    return int(field) if name in _WHOLE else float(field)
