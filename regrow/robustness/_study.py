"""Running a study: its folder, its log, its runs one after the other."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regrow.data import ImageData, checksum
from regrow.robustness._config import read_config
from regrow.robustness._corrupted import CorruptedSets
from regrow.robustness._examples import save_examples
from regrow.robustness._job import EQUAL, Job
from regrow.robustness._results import Results, collect, write_results
from regrow.robustness._run import run_cell
from regrow.robustness._sources import Source
from regrow.robustness._speed import (
    Speed,
    estimate,
    measure_speed,
    n_threads,
    outline,
    step_seconds,
)
from regrow.study import (
    Cell,
    Progress,
    StudyFolder,
    counting,
    duration,
    environment,
    open_study,
    using_threads,
)

logger = logging.getLogger(__name__)


def run_study(
    job: Job, source: Source, *, out: Path, resume: bool, progress: Progress
) -> tuple[Path, Results, tuple[str, ...]]:
    """Run all cells that are not done, and write the tables.

    Args:
        job: What all runs share.
        source: The corruptions.
        out: The study's folder.
        resume: Whether to go on with what is there.
        progress: Where to say how far it is.

    Returns:
        The folder, the tables, and notes on what was left out.

    Raises:
        FileExistsError: The folder holds files, and ``resume`` is False or they are no study.
        ValueError: The folder holds a study with other settings.
    """
    folder = open_study(out, describe(job, source), resume=resume)
    with logging_to(folder.root / "log.txt"):
        try:
            notes, threads = _record(job, source, folder)
            with using_threads(threads):
                return folder.root, _run(job, source, folder, notes, progress), notes
        except Exception:
            logger.exception("the study stopped")
            raise


def describe(job: Job, source: Source) -> dict[str, Any]:
    """All that a study's numbers depend on, as JSON values."""
    data = job.data
    return {
        "study": "robustness",
        "data": {
            "name": data.name,
            "train_images": len(data.train_images),
            "test_images": len(data.test_images),
            "classes": data.n_classes,
            "sha256": _checksum_of_all(data),
            "mean": list(data.mean),
            "std": list(data.std),
        },
        "model": {"name": job.model_name, "parameters": job.n_parameters},
        **job.settings.as_json(),
        "corrupted": "made by regrow" if source.published is None else "published",
    }


def _checksum_of_all(data: ImageData) -> str:
    """SHA-256 of the checksums of images and labels."""
    arrays = (data.train_images, data.train_labels, data.test_images, data.test_labels)
    return hashlib.sha256("".join(map(checksum, arrays)).encode()).hexdigest()


def _record(job: Job, source: Source, folder: StudyFolder) -> tuple[tuple[str, ...], int]:
    """Write into the folder's configuration what follows from the settings, and where we run.

    Returns:
        Notes on what was left out, and the number of threads: that of the first session, since
        the numbers depend on it.
    """
    config = read_config(folder)
    threads = config.get("threads", n_threads(job))
    here = environment(job.device)
    sessions = [*config.get("sessions", []), here]
    notes = [] if source.note is None else [source.note]
    notes += [
        f"No arm {EQUAL} at sparsity {sparsity:g}: {reason}."
        for sparsity, reason in job.refused.items()
    ]
    if any(session["versions"] != here["versions"] for session in sessions):
        notes.append("Package versions differ between the sessions of this study.")
    folder.update_config(
        environment=here,
        sessions=sessions,
        threads=threads,
        weight_steps=job.n_steps,
        rewiring=None if job.schedule is None else vars(job.schedule),
        widths={f"{sparsity:g}": width for sparsity, width in job.widths.items()},
        notes=notes,
    )
    return tuple(notes), threads


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append what regrow logs to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("regrow")
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(logging.INFO, level) if level else logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()


def _run(
    job: Job, source: Source, folder: StudyFolder, notes: tuple[str, ...], progress: Progress
) -> Results:
    expected = read_config(folder).get("checksums", {})
    corrupted = source.open(job.data, folder=folder.root / "corrupted", expected=expected)
    todo = [cell for cell in job.cells() if not folder.is_done(cell)]
    if todo:
        for line in (outline(job, todo), *notes):
            progress.say(line)
            logger.info(line)
        speed = measure_speed(job, frost_dir=source.frost, generates=source.published is None)
        seconds = estimate(job, todo, speed)
        progress.say(f"That takes about {duration(sum(seconds))}.")
        with counting(progress, sum(seconds)):
            for cell, expected_seconds in zip(todo, seconds, strict=True):
                _run_one(job, cell, folder, corrupted, speed, expected_seconds, progress)
    results = collect(job, folder)
    write_results(results, folder.root)
    return results


def _run_one(
    job: Job,
    cell: Cell,
    folder: StudyFolder,
    corrupted: CorruptedSets,
    speed: Speed,
    seconds: float,
    progress: Progress,
) -> None:
    """Run a cell, count its seconds as done, and keep what it found."""
    counted = 0.0

    def count(amount: float, what: str) -> None:
        nonlocal counted
        # What an earlier session did, or what takes longer than expected, must not overrun.
        amount = min(amount, seconds - counted)
        counted += amount
        progress.advance(amount, f"{cell.method} {cell.sparsity:g}, seed {cell.seed}: {what}")

    step = step_seconds(cell, speed)
    n_sets = 1 + len(job.settings.corruptions) * len(job.settings.severities)
    of_sets = (seconds - job.n_steps * step) / n_sets
    result = run_cell(
        job,
        cell,
        folder=folder,
        corrupted=corrupted,
        on_step=lambda: count(step, "training"),
        on_set=lambda: count(of_sets, "corrupted images"),
    )
    known = read_config(folder).get("checksums", {})
    for name, sets in corrupted.checksums.items():
        known[name] = {**known.get(name, {}), **sets}
    folder.update_config(checksums=known)
    save_examples(job, cell.seed, corrupted, folder)
    folder.finish(cell, result)
    if all(folder.is_done(other) for other in job.cells() if other.seed == cell.seed):
        corrupted.release(cell.seed)
    write_results(collect(job, folder), folder.root)
    count(seconds - counted, "done")
