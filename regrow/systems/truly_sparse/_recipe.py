"""Recipe: how a truly sparse network is trained; SGD and SET by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from regrow import Rule, TopologyUpdater
from regrow._checks import check_count, check_fraction
from regrow.allocation import erdos_renyi
from regrow.criteria import random, signed_magnitude
from regrow.nn import SparseModule
from regrow.schedules import UpdateWindow, constant
from regrow.systems.truly_sparse._importance import ImportancePruning
from regrow.systems.truly_sparse._model import hidden_weights
from regrow.topology import Unstructured
from regrow.training import Part, prepare_layers

Loss = Callable[[Tensor, Tensor], Tensor]
_NEVER = 2**62


@final
@dataclass(frozen=True)
class Recipe:
    """How a truly sparse network is trained; defaults are those of the paper's MLPs.

    Args:
        lr: Learning rate of SGD, above 0, constant.
        momentum: In [0, 1).
        weight_decay: L2 penalty on the values of connections, at least 0; biases have none. It is
            part of the gradient, so that a step shrinks weights by ``lr * weight_decay``. (The
            official code shrinks them by ``weight_decay`` itself: fifty to a hundred times more.)
        batch_size: Samples a step; the last batch of an epoch may be smaller.
        drop_fraction: Fraction in [0, 1] of each hidden layer's connections that is replaced
            between epochs (zeta): the same of either sign, by random new ones. They begin at zero,
            as does their momentum; the official code draws them from the law of first values.
        importance: When hidden neurons are pruned; None: never, as in the official sequential code.
        max_grad_norm: Gradients of a step are scaled down to this norm over all parameters, above
            0; None: never, as in the paper.

    Raises:
        TypeError: An argument is of another type.
        ValueError: An argument is out of range.
    """

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 2e-4
    batch_size: int = 128
    drop_fraction: float = 0.3
    importance: ImportancePruning | None = None
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        check_fraction(self.momentum, "momentum")
        check_fraction(self.drop_fraction, "drop_fraction", closed=True)
        check_count(self.batch_size, "batch_size")
        if not self.lr > 0:
            raise ValueError(f"lr must be above 0, got {self.lr!r}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay!r}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be above 0, or None; got {self.max_grad_norm!r}")


@final
@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did.

    Args:
        epoch: Counted from 1.
        loss: Mean training loss over its samples, dropout and all.
        nnz: Connections of the whole network at its end.
        n_pruned: Connections that importance pruning dropped just before it.
    """

    epoch: int
    loss: float
    nnz: int
    n_pruned: int = 0


def attach_set(
    model: nn.Module, recipe: Recipe, *, interval: int, seed: int = 0
) -> tuple[Optimizer, TopologyUpdater]:
    """SGD and SET for a truly sparse network.

    Hidden layers are rewired on the first step behind each ``interval`` steps, and so never behind
    the last epoch: what a training ends with was trained. The output layer keeps its topology.

    Args:
        model: With two truly sparse layers or more, in the order in which they follow each other.
        recipe: Learning rate and the rest.
        interval: Optimizer steps of one epoch.
        seed: Of the draws.

    Returns:
        The optimizer and the updater that is attached to it.

    Raises:
        ValueError: The model has no truly sparse hidden layer, or a layer has an updater already.
    """
    values = [m.values for m in model.modules() if isinstance(m, SparseModule)]
    ids = {id(value) for value in values}
    others = [p for p in model.parameters() if id(p) not in ids]
    groups = [{"params": values, "weight_decay": recipe.weight_decay}]
    groups += [{"params": others, "weight_decay": 0.0}] if others else []
    optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
    # Beside the largest step there is no end: nobody needs to know the number of epochs.
    window = UpdateWindow(interval=check_count(interval, "interval"), start=1, stop=_NEVER)
    layers = prepare_layers(
        model,
        sparsity=None,
        allocation=erdos_renyi(),
        structure=Unstructured(),
        select=hidden_weights(model),
        seed=seed,
    )
    rule = Rule(
        drop=signed_magnitude,
        grow=random,
        drop_fraction=constant(recipe.drop_fraction),
        window=window,
    )
    part = Part(layers, rule)
    return optimizer, TopologyUpdater(model, optimizer, parts=[part], seed=seed, process_group=None)


def clip_gradients(model: nn.Module, recipe: Recipe) -> None:
    """Scale gradients down where the recipe says so."""
    if recipe.max_grad_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
