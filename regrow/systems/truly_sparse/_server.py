"""Server: holds the model that workers send gradients for, steps and rewires it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn

from regrow import Topology
from regrow.nn import SparseModule
from regrow.ops import CSR, carry_values
from regrow.systems.truly_sparse._average import average_layers
from regrow.systems.truly_sparse._importance import prune_if_due
from regrow.systems.truly_sparse._mailbox import adopt, sparse_layers
from regrow.systems.truly_sparse._model import hidden_weights
from regrow.systems.truly_sparse._pool import WorkerPool
from regrow.systems.truly_sparse._recipe import (
    EpochRecord,
    Recipe,
    attach_set,
    clip_gradients,
)
from regrow.systems.truly_sparse._trainer import check_finite
from regrow.systems.truly_sparse._worker import GradientOrder, TrainingOrder

OnEpoch = Callable[[EpochRecord], object]


@final
class Server:
    """The model of the first phase, in the parent process.

    Args:
        model: Trained in place.
        pool: Workers that have copies of it.
        recipe: Learning rate and the rest.
        interval: Updates of one epoch.
        seed: Of rewirings.
        on_epoch: Called with the record of each epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        pool: WorkerPool,
        *,
        recipe: Recipe,
        interval: int,
        seed: int,
        on_epoch: OnEpoch | None,
    ) -> None:
        self.model = model
        self.pool = pool
        self.recipe = recipe
        self.interval = interval
        self.history: list[EpochRecord] = []
        self._hidden = hidden_weights(model)
        self._on_epoch = on_epoch
        self.optimizer, self.updater = attach_set(model, recipe, interval=interval, seed=seed)
        self._orders = [0] * len(pool)
        # Topologies that each worker has, those of its copy at first.
        self._sent = [self._topologies] * len(pool)
        self._losses: list[float] = []
        self._n_pruned = 0

    @property
    def updates(self) -> int:
        """Steps of the optimizer so far."""
        return self.updater.steps

    @property
    def _topologies(self) -> list[Topology]:
        return [layer.topology for layer in sparse_layers(self.model)]

    def request(self, rank: int) -> None:
        """Ask a worker for the gradient of its next batch, at the weights of now."""
        done, n_batches = self._orders[rank], self.pool.n_batches[rank]
        self._orders[rank] += 1
        rewired = self._post(rank)
        order = GradientOrder(done // n_batches + 1, done % n_batches, rewired)
        self.pool.send(rank, order)

    def gradients(self, rank: int) -> list[Tensor]:
        """What a worker sent, one a parameter; entries of connections that are gone are dropped.

        Connections that came since have none: their entry is zero.
        """
        then = dict(zip(self._values, self._sent[rank], strict=True))
        parameters = list(self.model.parameters())
        sizes = [then[id(p)].nnz if id(p) in then else p.numel() for p in parameters]
        found = []
        for parameter, grad in zip(parameters, self.pool.boxes[rank].take(sizes), strict=True):
            layer = self._values.get(id(parameter))
            if layer is not None and then[id(parameter)] is not layer.topology:
                grad = carry_values(CSR.of(then[id(parameter)]), grad, layer.layout)
            found.append(grad.view_as(parameter))
        return found

    def before_update(self) -> None:
        """Prune neurons where an epoch has ended and the recipe says so."""
        epoch, within = divmod(self.updates, self.interval)
        if within == 0:
            self._n_pruned = prune_if_due(
                self.recipe.importance, self.updater, self._hidden, epoch=epoch
            )

    def update(self, grads: Sequence[Tensor], loss: float) -> None:
        """One step by these gradients; rewires where an epoch has ended before it."""
        for parameter, grad in zip(self.model.parameters(), grads, strict=True):
            parameter.grad = grad
        clip_gradients(self.model, self.recipe)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._losses.append(loss)
        if self.updates % self.interval == 0:
            self._end_epoch()

    def train_alone(self, epochs: int) -> list[list[EpochRecord]]:
        """The second phase: each worker by itself, then their average is the model.

        Args:
            epochs: How many.

        Returns:
            The records of each worker.
        """
        for rank in range(len(self.pool)):
            rewired = self._post(rank)
            self.pool.send(rank, TrainingOrder(epochs, rewired))
        answers = dict(self.pool.receive_all())
        self._take_average()
        return [answers[rank][0] for rank in range(len(self.pool))]

    @torch.no_grad()
    def _take_average(self) -> None:
        """Become the average of the models in the mailboxes, at the counts of now."""
        layers, parameters = self._values, list(self.model.parameters())
        topologies, pieces = [], []
        for box in self.pool.boxes:
            own = dict(zip(layers, box.topologies(self.model), strict=True))
            topologies.append(own)
            pieces.append(
                box.take([own[id(p)].nnz if id(p) in own else p.numel() for p in parameters])
            )
        found = {}
        for parameter, *mine in zip(parameters, *pieces, strict=True):
            key = id(parameter)
            if key in layers:
                found[key] = average_layers(
                    [own[key] for own in topologies], mine, nnz=layers[key].nnz
                )
            else:
                parameter.copy_(torch.stack(mine).mean(0).view_as(parameter))
        adopt(self.model, [found[key][0] for key in layers])
        for key, layer in layers.items():
            layer.values.copy_(found[key][1])

    @property
    def _values(self) -> dict[int, SparseModule]:
        """The id of the values of each truly sparse layer -> the layer."""
        return {id(layer.values): layer for layer in sparse_layers(self.model)}

    def _post(self, rank: int) -> bool:
        """Put weights into a mailbox, and topologies where they changed; whether they did."""
        box, now = self.pool.boxes[rank], self._topologies
        rewired = any(a is not b for a, b in zip(self._sent[rank], now, strict=True))
        if rewired:
            box.put_topologies(self.model)
            self._sent[rank] = now
        box.put(list(self.model.parameters()))
        return rewired

    def _end_epoch(self) -> None:
        epoch = self.updates // self.interval
        mean = sum(self._losses) / len(self._losses)
        check_finite(mean, epoch)
        nnz = sum(layer.nnz for layer in sparse_layers(self.model))
        self.history.append(EpochRecord(epoch, mean, nnz, self._n_pruned))
        self._losses, self._n_pruned = [], 0
        if self._on_epoch is not None:
            self._on_epoch(self.history[-1])
