"""SET training of a truly sparse network, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from regrow import TopologyUpdater
from regrow._checks import check_count
from regrow.errors import SparsityError
from regrow.nn import SparseModule
from regrow.systems.truly_sparse._activation import SeededDropout
from regrow.systems.truly_sparse._importance import prune_if_due
from regrow.systems.truly_sparse._model import hidden_weights
from regrow.systems.truly_sparse._recipe import (
    EpochRecord,
    Loss,
    Recipe,
    attach_set,
    clip_gradients,
)
from regrow.systems.truly_sparse._samples import Samples, batches, check_outputs
from regrow.topology import derived_generator

_FORMAT = 1


@final
class SetTrainer:
    """Trains a truly sparse network by SET, in one process.

    After each epoch ``drop_fraction`` of each hidden layer's connections is replaced, and neurons
    are pruned where the recipe says so; both happen at the beginning of the next epoch. The same
    arguments give the same network, bit for bit on one machine and number of threads, and so does a
    training that was interrupted between epochs and resumed.

    Args:
        model: Such as ``sparse_mlp`` makes; with two truly sparse layers or more, in the order in
            which they follow each other. Trained in place.
        recipe: Learning rate and the rest; by default the paper's.
        loss: (outputs, targets) -> mean loss over the batch.
        seed: Of the order of samples, dropout and rewirings.
        interval: Optimizer steps from one rewiring to the next; None: one pass over the samples
            that the first epoch is run on.

    Raises:
        ValueError: The model has no truly sparse hidden layer, or has an updater already.

    Source: Mocanu et al. 2018 (SET); Curci, Mocanu & Pechenizkiy 2021, "Truly sparse neural
    networks at scale".

    Example:
        >>> from regrow.systems.truly_sparse import Samples, sparse_mlp
        >>> net = sparse_mlp((8, 16, 2), epsilon=2)
        >>> samples = Samples(torch.rand(10, 8), torch.arange(10) % 2)
        >>> trainer = SetTrainer(net)
        >>> [record.epoch for record in trainer.fit(samples, epochs=2)]
        [1, 2]
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe | None = None,
        *,
        loss: Loss = F.cross_entropy,
        seed: int = 0,
        interval: int | None = None,
    ) -> None:
        self.model = model
        self.recipe = Recipe() if recipe is None else recipe
        self.loss = loss
        self.seed = seed
        self._hidden = hidden_weights(model)
        self._interval = interval
        self._attached: tuple[Optimizer, TopologyUpdater] | None = None
        self._history: list[EpochRecord] = []
        if interval is not None:
            self._attach(interval)

    @property
    def history(self) -> Sequence[EpochRecord]:
        """Every epoch so far."""
        return tuple(self._history)

    @property
    def epochs(self) -> int:
        """Epochs so far."""
        return len(self._history)

    @property
    def optimizer(self) -> Optimizer:
        """SGD; for schedules of the learning rate. Made by the first epoch, or by ``interval``."""
        return self._both[0]

    @property
    def updater(self) -> TopologyUpdater:
        """Topologies, reports and edits. Made by the first epoch, or by ``interval``."""
        return self._both[1]

    @property
    def nnz(self) -> int:
        """Connections of the whole network, counted."""
        return sum(m.nnz for m in self.model.modules() if isinstance(m, SparseModule))

    def fit(
        self,
        samples: Samples,
        *,
        epochs: int,
        on_epoch: Callable[[EpochRecord], object] | None = None,
    ) -> list[EpochRecord]:
        """Train for some more epochs.

        Args:
            samples: What to train on.
            epochs: How many more.
            on_epoch: Called with the record of each; training ends where it returns False.

        Returns:
            The records of these epochs.
        """
        first = self.epochs
        for _ in range(check_count(epochs, "epochs")):
            record = self.run_epoch(samples)
            if on_epoch is not None and on_epoch(record) is False:
                break
        return self._history[first:]

    def run_epoch(self, samples: Samples) -> EpochRecord:
        """One pass over the samples, in an order of its own.

        Raises:
            FloatingPointError: The loss is not finite; the model is as the last step left it.
            SparsityError: With cross entropy a label is no number of an output.
        """
        check_outputs(self.model, samples, self.loss)
        if self._attached is None:
            self._attach(-(-len(samples) // self.recipe.batch_size))
        epoch = self.epochs + 1
        n_pruned = prune_if_due(self.recipe.importance, self.updater, self._hidden, epoch=epoch - 1)
        order = begin_epoch(self.model, samples, seed=self.seed, epoch=epoch)
        total = 0.0
        for indices in batches(order, self.recipe.batch_size):
            x, y = samples.batch(indices)
            self.optimizer.zero_grad()
            loss = self.loss(self.model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            clip_gradients(self.model, self.recipe)
            self.optimizer.step()
            total += loss.item() * len(indices)
        check_finite(total, epoch)
        record = EpochRecord(epoch, total / len(samples), self.nnz, n_pruned)
        self._history.append(record)
        return record

    def detach(self) -> None:
        """Let the model go: nothing rewires it any more."""
        if self._attached is not None:
            self.updater.detach()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs, between two epochs.

        Loads with ``torch.load(weights_only=True)``.
        """
        return {
            "format": _FORMAT,
            "interval": self._interval,
            "history": [asdict(record) for record in self._history],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updater": self.updater.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; model, recipe, loss and seed are the caller's to make alike.

        Raises:
            SparsityError: The state is none of a trainer, or of another model.
        """
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise SparsityError("state must be what SetTrainer.state_dict() returned")
        if self._attached is None:
            self._attach(state["interval"])
        elif self._interval != state["interval"]:
            raise SparsityError(
                f"the trainer rewires every {self._interval} steps, the saved one every "
                f"{state['interval']}: pass interval={state['interval']}, or None"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updater.load_state_dict(state["updater"])
        self._history = [EpochRecord(**record) for record in state["history"]]

    @property
    def _both(self) -> tuple[Optimizer, TopologyUpdater]:
        if self._attached is None:
            raise RuntimeError(
                "the optimizer is made by the first epoch: run one, or pass interval="
            )
        return self._attached

    def _attach(self, interval: int) -> None:
        self._interval = interval
        self._attached = attach_set(self.model, self.recipe, interval=interval, seed=self.seed)


def order_of(samples: Samples, seed: int, epoch: int) -> Tensor:
    """The order of the samples in one epoch (N,) int64."""
    return torch.randperm(len(samples), generator=derived_generator(seed, "order", epoch))


def begin_epoch(model: nn.Module, samples: Samples, *, seed: int, epoch: int) -> Tensor:
    """Training mode, with draws of dropout that depend on seed and epoch alone; ``order_of``."""
    modules = [module for module in model.modules() if isinstance(module, SeededDropout)]
    for i, module in enumerate(modules):
        module.restart(seed, epoch, i)
    model.train()
    return order_of(samples, seed, epoch)


def check_finite(loss: float, epoch: int) -> None:
    """Raise ``FloatingPointError`` where a loss is not finite."""
    if not abs(loss) < float("inf"):
        raise FloatingPointError(
            f"the loss of epoch {epoch} is {loss}: lower the learning rate, or scale the inputs"
        )
