"""WASAP-SGD and WASSP-SGD: one model, several processes, two phases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regrow._checks import check_count, check_fraction
from regrow.systems.truly_sparse._model import hidden_weights
from regrow.systems.truly_sparse._pool import WorkerPool
from regrow.systems.truly_sparse._recipe import EpochRecord, Loss, Recipe
from regrow.systems.truly_sparse._samples import Samples
from regrow.systems.truly_sparse._server import OnEpoch, Server


@final
@dataclass(frozen=True)
class ParallelHistory:
    """What a parallel training did.

    Args:
        together: The epochs of the first phase.
        alone: Of each worker, the epochs of the second phase.
    """

    together: tuple[EpochRecord, ...]
    alone: tuple[tuple[EpochRecord, ...], ...]


def wasap_sgd(
    model: nn.Module,
    samples: Samples,
    *,
    epochs: int,
    n_workers: int = 5,
    local_share: float = 0.3,
    recipe: Recipe | None = None,
    loss: Loss = F.cross_entropy,
    seed: int = 0,
    n_threads: int = 1,
    on_epoch: OnEpoch | None = None,
) -> ParallelHistory:
    """Train on several processes: asynchronously first, each by itself then, averaged at the end.

    In the first phase workers compute gradients of batches of their own samples at the weights that
    they got last; this process makes a step of each as it comes, rewires hidden layers after each
    epoch and prunes neurons where the recipe says so. A gradient may so be of an older topology:
    entries of connections that are gone are dropped. In the second phase each worker trains and
    rewires a copy on its own samples; the result is the average over the union of their
    connections, pruned back to the count of the first phase by signed magnitude.

    Which gradient comes first is chance: only one worker gives the same network twice. Workers are
    started by "spawn", so a script needs ``if __name__ == "__main__":``.

    Not as in the official code: the learning rate is the recipe's, and no constant of the server;
    weight decay is scaled by it; neurons are pruned only where the recipe says so; and workers of
    the second phase do not fetch the server's weights in between, which there overwrite their own.

    Args:
        model: Truly sparse layers, on the CPU, without an updater; trained in place.
        samples: All of them; each worker gets its share. Dense inputs are moved to shared memory.
        epochs: Of both phases together: passes over all samples.
        n_workers: Processes beside this one. Paper: 5.
        local_share: Fraction in [0, 1] of the epochs that are the second phase's. Paper: 0.3.
        recipe: Learning rate and the rest; by default the paper's. The batch size is a worker's.
        loss: (outputs, targets) -> mean loss over the batch; a function of a module.
        seed: Of everything that is drawn.
        n_threads: Threads of each worker.
        on_epoch: Called with the record of each epoch of the first phase.

    Returns:
        The records of all epochs.

    Raises:
        TypeError: An argument is of another type.
        ValueError: An argument is out of range, or the model cannot be trained like this.
        WorkerError: A worker failed or ended; the message says why. No process is left behind.
        FloatingPointError: The loss is not finite.

    Source: Curci, Mocanu & Pechenizkiy 2021, "Truly sparse neural networks at scale", section 3.3.
    """
    check_count(n_workers, "n_workers")
    recipe = Recipe() if recipe is None else recipe
    n_alone = _local_epochs(epochs, local_share)
    pool = _pool(model, samples, n_workers, recipe, loss, seed, n_threads)
    with pool, _serving(model, pool, recipe, sum(pool.n_batches), seed, on_epoch) as server:
        n_updates = (epochs - n_alone) * server.interval
        n_requests = min(n_workers, n_updates)
        for rank in range(n_requests):
            server.request(rank)
        while server.updates < n_updates:
            rank, value = pool.receive()
            server.before_update()
            server.update(server.gradients(rank), value)
            if n_requests < n_updates:
                server.request(rank)
                n_requests += 1
        return _finish(server, n_alone)


def wassp_sgd(
    model: nn.Module,
    samples: Samples,
    *,
    epochs: int,
    n_workers: int = 5,
    local_share: float = 0.3,
    warmup_epochs: int = 5,
    recipe: Recipe | None = None,
    loss: Loss = F.cross_entropy,
    seed: int = 0,
    n_threads: int = 1,
    on_epoch: OnEpoch | None = None,
) -> ParallelHistory:
    """``wasap_sgd`` with a synchronous first phase: each step is by the workers' average gradient.

    Their batches make one large one, so that the learning rate is ``n_workers`` times as high; it
    rises from the recipe's over ``warmup_epochs`` (Goyal et al. 2017). torch's momentum has no
    learning rate in it and needs no correction when that changes. The second phase goes by the
    recipe's rate. The same arguments give the same network.

    Not as in the official code: the learning rate does not fall. (There it is divided by ten at
    every update from epoch 200 on, and vanishes.)

    Args:
        model: Truly sparse layers, on the CPU, without an updater; trained in place.
        samples: All of them; each worker gets its share. Dense inputs are moved to shared memory.
        epochs: Of both phases together: passes over all samples.
        n_workers: Processes beside this one. Paper: 5.
        local_share: Fraction in [0, 1] of the epochs that are the second phase's. Paper: 0.3.
        warmup_epochs: Epochs over which the learning rate rises; 0: none. Official code: 5.
        recipe: Learning rate and the rest; by default the paper's. The batch size is a worker's.
        loss: (outputs, targets) -> mean loss over the batch; a function of a module.
        seed: Of everything that is drawn.
        n_threads: Threads of each worker.
        on_epoch: Called with the record of each epoch of the first phase.

    Returns:
        The records of all epochs.

    Raises:
        TypeError: An argument is of another type.
        ValueError: An argument is out of range, or the model cannot be trained like this.
        WorkerError: A worker failed or ended; the message says why. No process is left behind.
        FloatingPointError: The loss is not finite.

    Source: Curci, Mocanu & Pechenizkiy 2021, "Truly sparse neural networks at scale", section 3.3.
    """
    check_count(n_workers, "n_workers")
    check_count(warmup_epochs, "warmup_epochs", least=0)
    recipe = Recipe() if recipe is None else recipe
    n_alone = _local_epochs(epochs, local_share)
    pool = _pool(model, samples, n_workers, recipe, loss, seed, n_threads)
    with pool, _serving(model, pool, recipe, max(pool.n_batches), seed, on_epoch) as server:
        rate = _warmed_up(recipe.lr, n_workers, warmup_epochs * server.interval)
        for update in range((epochs - n_alone) * server.interval):
            server.before_update()
            for group in server.optimizer.param_groups:
                group["lr"] = rate(update)
            for rank in range(n_workers):
                server.request(rank)
            values = dict(pool.receive_all())
            # In the order of ranks, whichever came first: sums are not associative.
            grads = [server.gradients(rank) for rank in range(n_workers)]
            server.update(_means(grads), sum(values[k] for k in sorted(values)) / n_workers)
        return _finish(server, n_alone)


def _warmed_up(lr: float, n_workers: int, n_updates: int) -> Callable[[int], float]:
    def rate(update: int) -> float:
        risen = min(1.0, (update + 1) / n_updates) if n_updates else 1.0
        return lr * (1 + (n_workers - 1) * risen)

    return rate


def _means(grads: list[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(each).mean(0) for each in zip(*grads, strict=True)]


def _local_epochs(epochs: int, share: float) -> int:
    return round(check_count(epochs, "epochs") * check_fraction(share, "local_share", closed=True))


def _pool(
    model: nn.Module,
    samples: Samples,
    n_workers: int,
    recipe: Recipe,
    loss: Loss,
    seed: int,
    n_threads: int,
) -> WorkerPool:
    hidden_weights(model)  # before anything is started
    return WorkerPool(
        model,
        samples,
        n_workers=n_workers,
        # Neurons are pruned by the server alone, as in the official code.
        recipe=replace(recipe, importance=None),
        loss=loss,
        seed=seed,
        n_threads=check_count(n_threads, "n_threads"),
    )


@contextmanager
def _serving(
    model: nn.Module,
    pool: WorkerPool,
    recipe: Recipe,
    interval: int,
    seed: int,
    on_epoch: OnEpoch | None,
) -> Iterator[Server]:
    """A server whose hooks do not outlive the training."""
    server = Server(model, pool, recipe=recipe, interval=interval, seed=seed, on_epoch=on_epoch)
    try:
        yield server
    finally:
        server.updater.detach()


def _finish(server: Server, n_alone: int) -> ParallelHistory:
    server.updater.detach()
    alone = server.train_alone(n_alone) if n_alone else []
    return ParallelHistory(tuple(server.history), tuple(map(tuple, alone)))
