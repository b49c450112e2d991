"""One run of a study: train a model, then name images it has never seen."""

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import regrow
from regrow import Topology, TopologyUpdater
from regrow.robustness._corrupted import CorruptedSets
from regrow.robustness._job import Job
from regrow.robustness._rows import check_accuracies
from regrow.study import (
    Cell,
    StudyFolder,
    Training,
    accuracy,
    explored,
    read_json,
    train_classifier,
    write_json,
)

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_SAVES = 5.0


def run_cell(
    job: Job,
    cell: Cell,
    *,
    folder: StudyFolder,
    corrupted: CorruptedSets,
    on_step: Callable[[], None],
    on_set: Callable[[], None],
) -> dict[str, Any]:
    """Train a cell's model and measure its accuracy on every set of images.

    What an earlier session has done is not done again: training goes on after its last epoch, and
    sets that were measured are not measured twice.

    Args:
        job: What all runs share.
        cell: Which run.
        folder: Where checkpoints are.
        corrupted: The corrupted images.
        on_step: Called after each weight step.
        on_set: Called after each set of images.

    Returns:
        JSON values: ``run`` (costs and counts), ``accuracies`` (a list of corruption, severity and
        accuracy; clean first) and ``history`` (one entry an epoch).
    """
    model = job.model(cell)
    optimizer = job.settings.recipe.optimizer(model)
    updater = job.attach(cell, model, optimizer)
    logger.info("%s: training", cell.name)
    training = train_classifier(
        model,
        job.train,
        recipe=job.settings.recipe,
        optimizer=optimizer,
        updater=updater,
        seed=cell.seed,
        checkpoint=folder.checkpoint(cell),
        device=job.device,
        amp=job.settings.amp,
        on_step=on_step,
    )
    accuracies = _measure(job, cell, model, folder=folder, corrupted=corrupted, on_set=on_set)
    return {
        "run": _costs(job, model, updater, training),
        "accuracies": accuracies,
        "history": training.history,
    }


def _measure(
    job: Job,
    cell: Cell,
    model: nn.Module,
    *,
    folder: StudyFolder,
    corrupted: CorruptedSets,
    on_set: Callable[[], None],
) -> list[dict[str, Any]]:
    """Accuracy on the clean images and on every corrupted set."""
    path = folder.cell(cell) / "evaluation.json"
    known = _measured(path) if path.exists() else []
    done = {(row["corruption"], row["severity"]) for row in known}
    saved = time.monotonic()
    kinds = job.settings.corruptions
    for kind, severity in [
        ("clean", 0),
        *((kind, severity) for kind in kinds for severity in job.settings.severities),
    ]:
        if (kind, severity) in done:
            continue
        pixels = None
        if kind != "clean":
            # The images come from a read-only file, which torch would warn about.
            pixels = torch.from_numpy(corrupted.images(cell.seed, kind, severity).copy())
        share = accuracy(model, job.test, pixels=pixels, device=job.device, amp=job.settings.amp)
        known.append({"corruption": kind, "severity": severity, "accuracy": share})
        on_set()
        if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
            write_json(path, known)
            saved = time.monotonic()
    write_json(path, known)
    return known


def _measured(path: Path) -> list[dict[str, Any]]:
    """What an earlier session has measured."""
    try:
        return check_accuracies(read_json(path))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged: {error}. Remove it, and its sets of images are measured again"
        ) from error


def _costs(
    job: Job, model: nn.Module, updater: TopologyUpdater | None, training: Training
) -> dict[str, Any]:
    """What a trained model cost and costs."""
    model.eval()
    n = job.settings.recipe.batch_size
    batch = job.train.normalised(job.train.pixels[:n].to(job.device))
    topologies: Mapping[str, Topology] = {} if updater is None else updater.topologies
    one = regrow.count(model, batch[:1], topologies)
    if updater is None:
        steps_flops = regrow.count(model, batch, topologies).training_flops
        training_flops = steps_flops * training.weight_steps
    else:
        training_flops = updater.training_flops(batch)
    nnz, n_weights = _connections(model, topologies)
    return {
        "nnz": nnz,
        "counted_sparsity": 1 - nnz / n_weights if n_weights else 0.0,
        "parameters": one.parameters,
        "live_parameters": one.live_parameters,
        "rewirings": 0 if updater is None else updater.rewirings,
        # With weight_step="skip" a rewiring takes the place of a weight step.
        "weight_steps": training.weight_steps if updater is None else updater.weight_steps,
        "exploration": explored(updater),
        "training_flops": int(training_flops),
        "inference_flops": int(one.forward_flops),
        "bytes": int(one.bytes),
        "seconds": training.seconds,
    }


def _connections(model: nn.Module, topologies: Mapping[str, Topology]) -> tuple[int, int]:
    """Active weights and all weights, of the tensors that sparse arms make sparse."""
    if not topologies:
        model = copy.deepcopy(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        topologies = regrow.static(model, optimizer, sparsity=0.0).topologies
    return (
        sum(topology.nnz for topology in topologies.values()),
        sum(math.prod(topology.shape) for topology in topologies.values()),
    )
