"""The tables of a study: one row a measurement, one row a run, one row an epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from regrow.robustness._job import Job
from regrow.robustness._rows import (
    CURVE_COLUMNS,
    RESULT_COLUMNS,
    RUN,
    RUN_COLUMNS,
    Row,
    check_accuracies,
    check_row,
    check_rows,
    read_value,
)
from regrow.study import Cell, StudyFolder, read_csv, write_csv


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

    Raises:
        ValueError: A cell's result is damaged; the message names the file.
    """
    results, runs, curves = [], [], []
    for cell in job.cells():
        if not folder.is_done(cell):
            continue
        accuracies, run, history = _parts(folder, cell)
        head = _head(job, cell)
        n_images = {"n_images": len(job.test)}
        results += [{**head, **row, **n_images} for row in accuracies]
        runs.append({**head, **run})
        curves += [{**head, **row} for row in history]
    return Results(results, runs, curves)


def _parts(folder: StudyFolder, cell: Cell) -> tuple[Sequence[Row], Row, Sequence[Row]]:
    """Accuracies, costs and history of a cell that is done, checked."""
    done = folder.read_result(cell)
    try:
        return (
            check_accuracies(done.get("accuracies")),
            check_row(done.get("run"), RUN_COLUMNS[len(RUN) :]),
            check_rows(done.get("history"), CURVE_COLUMNS[len(RUN) :]),
        )
    except ValueError as error:
        raise ValueError(
            f"{folder.result(cell)} is damaged: {error}. Remove it, and the run is measured again"
        ) from error


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
            values = {name: read_value(name, row[name]) for name in columns}
            rows.append(check_row(values, columns))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return rows
