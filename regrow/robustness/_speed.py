"""How long the parts of a study take, from a moment of each."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch.nn import functional as F

import regrow
from regrow.robustness._corrupted import image_seeds
from regrow.robustness._job import Job
from regrow.robustness.corruptions import corrupt_seeded
from regrow.study import DENSE, Cell, accuracy, seeded

_N_PROBES = 5
_PROBE_SECONDS = 2.0
_N_PROBE_IMAGES = 16
_N_EVALUATED = 100
_MASK_FACTOR = 1.15
_SHORT_STEP = 5e9


@final
@dataclass(frozen=True)
class Speed:
    """Seconds that the parts of a study take, about.

    Args:
        step: One weight step.
        evaluation: Naming the test images once.
        corruption: Corrupting the test images once.
    """

    step: float
    evaluation: float
    corruption: float


def measure_speed(job: Job, *, frost_dir: Path | None, generates: bool) -> Speed:
    """Time a few steps, a forward pass and a few corrupted images.

    Args:
        job: The study; nothing of it is changed.
        frost_dir: Folder of the frost textures.
        generates: Whether corrupted images are made, not read.

    Returns:
        Estimates. They do not change a result, only what the progress bar says.
    """
    step, evaluation = _model_speed(job)
    corruption = _corruption_speed(job, frost_dir) if generates else 0.0
    return Speed(step, evaluation, corruption)


def n_threads(job: Job) -> int:
    """Threads that a study computes with: one where a weight step is short.

    The threads of a short step wait for each other longer than they compute, above all where
    another program uses a core. Decided by the step's FLOPs and not by a clock, so that the same
    command gives the same numbers.
    """
    if job.device.type != "cpu":
        return torch.get_num_threads()
    model = job.model(Cell("dense", 0.0, 0)).eval()
    example = job.train.normalised(job.train.pixels[:1])
    flops = regrow.count(model, example, {}).training_flops * job.settings.recipe.batch_size
    return 1 if flops < _SHORT_STEP else torch.get_num_threads()


def _model_speed(job: Job) -> tuple[float, float]:
    model = job.model(Cell("dense", 0.0, 0))
    optimizer = job.settings.recipe.optimizer(model)
    n = job.settings.recipe.batch_size
    inputs = job.train.normalised(job.train.pixels[:n].to(job.device))
    labels = job.train.labels[:n].to(job.device)
    probe = job.test.first(_N_EVALUATED)

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(inputs), labels))
        optimizer.step()

    def evaluate() -> None:
        accuracy(model, probe, device=job.device, amp=job.settings.amp)

    with seeded(0, "speed", device=job.device):
        seconds = _time(step, job.device)
        return seconds, _time(evaluate, job.device) * len(job.test) / len(probe)


def _corruption_speed(job: Job, frost_dir: Path | None) -> float:
    """Seconds for the whole test set, a mean over the corruptions at the middle severity."""
    images = job.data.test_images[:_N_PROBE_IMAGES]
    severity = sorted(job.settings.severities)[len(job.settings.severities) // 2]
    seconds = []
    seeds = image_seeds(0, n_images=len(images))
    for kind in job.settings.corruptions:
        # The first call of a kind loads packages.
        corrupt_seeded(images[:1], kind, severity, seeds=seeds[:1], frost_dir=frost_dir)
        started = time.perf_counter()
        corrupt_seeded(images, kind, severity, seeds=seeds, frost_dir=frost_dir)
        seconds.append(time.perf_counter() - started)
    return statistics.fmean(seconds) * len(job.data.test_images) / len(images)


def _time(work: Callable[[], None], device: torch.device) -> float:
    """Median duration of a few calls, the first of which does not count unless it takes long."""
    seconds: list[float] = []
    while len(seconds) <= _N_PROBES and sum(seconds) < _PROBE_SECONDS:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:] or seconds)


def step_seconds(cell: Cell, speed: Speed) -> float:
    """Seconds of one weight step of a cell, about: masks cost a little."""
    return speed.step * (1.0 if cell.method in DENSE else _MASK_FACTOR)


def estimate(job: Job, cells: Sequence[Cell], speed: Speed) -> list[float]:
    """Seconds that cells will take, about.

    Args:
        job: The study.
        cells: The cells, in the order in which they are run; the first of a seed also makes the
            seed's corrupted images.
        speed: What was measured.
    """
    n_sets = len(job.settings.corruptions) * len(job.settings.severities)
    seconds, seeds = [], set()
    for cell in cells:
        one = job.n_steps * step_seconds(cell, speed) + (1 + n_sets) * speed.evaluation
        if cell.seed not in seeds:
            one += n_sets * speed.corruption
            seeds.add(cell.seed)
        seconds.append(one)
    return seconds


def outline(job: Job, cells: Sequence[Cell]) -> str:
    """What a study is going to do, in one line."""
    settings, recipe = job.settings, job.settings.recipe
    arms = {(cell.method, cell.sparsity) for cell in job.cells()}
    methods = [m for m in settings.methods if any(method == m for method, _ in arms)]
    sparsities = ", ".join(f"{sparsity:g}" for sparsity in settings.sparsities)
    all_runs = len(job.cells())
    runs = f"{all_runs} runs" if len(cells) == all_runs else f"{len(cells)} of {all_runs} runs left"
    rewirings = (
        f", {job.schedule.rewirings} rewirings every {job.schedule.interval}"
        if job.schedule
        else ""
    )
    return (
        f"{len(arms)} arms ({', '.join(methods)}; sparsity {sparsities}) x "
        f"{settings.seeds} seeds = {runs} of {job.model_name} on {job.data.name}: "
        f"{recipe.epochs} epochs = {job.n_steps} weight steps of {recipe.batch_size} images"
        f"{rewirings}; {len(settings.corruptions)} corruptions at severities "
        f"{', '.join(map(str, settings.severities))}, {len(job.test)} test images."
    )
