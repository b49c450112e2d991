"""What a worker process runs: gradients for the server, or a training of its own."""

from __future__ import annotations

import signal
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import final

import torch
from torch import Tensor, nn

from regrow.systems.truly_sparse._mailbox import (
    Mailbox,
    adopt,
    sparse_layers,
    write_parameters,
)
from regrow.systems.truly_sparse._recipe import EpochRecord, Loss, Recipe
from regrow.systems.truly_sparse._samples import Samples
from regrow.systems.truly_sparse._trainer import SetTrainer, begin_epoch
from regrow.topology import derived_generator


@final
@dataclass(frozen=True)
class Job:
    """What a worker is given at its start.

    Args:
        rank: Which worker, from 0.
        model: A copy of its own.
        samples: Its own.
        recipe: Learning rate and the rest.
        loss: (outputs, targets) -> mean loss over the batch; a function of a module.
        seed: Of the whole training.
        box: Weights come in, gradients go out.
        n_threads: Threads of its products.
    """

    rank: int
    model: nn.Module
    samples: Samples
    recipe: Recipe
    loss: Loss
    seed: int
    box: Mailbox
    n_threads: int


@final
@dataclass(frozen=True)
class GradientOrder:
    """Send the gradient of one batch.

    Args:
        epoch: Of this worker, counted from 1.
        index: Of the batch in it.
        rewired: Whether the mailbox holds topologies, too.
    """

    epoch: int
    index: int
    rewired: bool


@final
@dataclass(frozen=True)
class TrainingOrder:
    """Train alone from the weights in the mailbox, and send the result.

    Args:
        epochs: How many.
        rewired: Whether the mailbox holds topologies, too.
    """

    epochs: int
    rewired: bool


@final
@dataclass(frozen=True)
class Failure:
    """What a worker says before it ends by an error.

    Args:
        traceback: As Python prints it.
    """

    traceback: str


def run_worker(connection: Connection, job: Job) -> None:
    """Follow orders until the parent ends this process, or is gone."""
    # Ctrl-C reaches the whole process group; the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(job.n_threads)
    try:
        worker = Worker(job)
        connection.send(None)
        while True:
            connection.send(worker.follow(connection.recv()))
    except EOFError:
        return  # the parent is gone
    except BaseException:  # noqa: BLE001 - whatever it is, the parent raises it
        connection.send(Failure(traceback.format_exc()))


@final
class Worker:
    """A copy of the model, and the samples of one worker.

    Args:
        job: What it was given.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._model: nn.Module = job.model
        self._epoch = 0
        self._order = torch.empty(0, dtype=torch.int64)

    def follow(self, order: GradientOrder | TrainingOrder) -> object:
        """Do it; the answer to send, while the result is in the mailbox."""
        if order.rewired:
            adopt(self._model, self._job.box.topologies(self._model))
        write_parameters(self._model, self._job.box)
        return self._gradient(order) if isinstance(order, GradientOrder) else self._train(order)

    def _gradient(self, order: GradientOrder) -> float:
        job, model = self._job, self._model
        if order.epoch != self._epoch:
            seed = _seed(job, "gradients")
            self._order = begin_epoch(model, job.samples, seed=seed, epoch=order.epoch)
            self._epoch = order.epoch
        first = order.index * job.recipe.batch_size
        x, y = job.samples.batch(self._order[first : first + job.recipe.batch_size])
        model.zero_grad()
        loss = job.loss(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        job.box.put([_grad_of(p) for p in model.parameters()])
        return loss.item()

    def _train(self, order: TrainingOrder) -> tuple[list[EpochRecord], list[int]]:
        job = self._job
        trainer = SetTrainer(self._model, job.recipe, loss=job.loss, seed=_seed(job, "alone"))
        records = trainer.fit(job.samples, epochs=order.epochs)
        trainer.detach()
        job.box.put_topologies(self._model)
        job.box.put(list(self._model.parameters()))
        return records, [layer.nnz for layer in sparse_layers(self._model)]


def _grad_of(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _seed(job: Job, part: str) -> int:
    """Workers draw differently."""
    generator = derived_generator(job.seed, part, job.rank)
    return int(torch.randint(2**62, (), generator=generator))
