"""SET: sparse evolutionary training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from regrow.allocation import Allocation
from regrow.criteria import random, signed_magnitude
from regrow.methods._attach import ERK, UNSTRUCTURED, annealed, attach
from regrow.methods._structures import structures_of
from regrow.schedules import UpdateWindow
from regrow.topology import Structure
from regrow.training import ProcessGroup, Rule, Select, TopologyUpdater, default_weights
from regrow.typing import Criterion, Regrow, Schedule, WeightStep


def set_training(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    sparsity: float | None,
    n_steps: int,
    seed: int = 0,
    allocation: Allocation = ERK,
    structure: Structure = UNSTRUCTURED,
    select: Select = default_weights,
    interval: int = 100,
    drop_fraction: float | Schedule = 0.3,
    stop_at: float = 0.75,
    drop: Criterion = signed_magnitude,
    regrow: Regrow = "keep",
    weight_step: WeightStep = "before",
    process_group: ProcessGroup = "auto",
) -> TopologyUpdater:
    """SET: drop the weights nearest to zero of each sign, grow at random.

    Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse
    connectivity inspired by network science". Schedule and fraction are those of SET in RigL's
    code; SET's own uses a constant fraction 0.3 every epoch, which is
    ``drop_fraction=regrow.schedules.constant(0.3)``, ``interval`` steps an epoch and
    ``stop_at=1.0``, with ``allocation=regrow.erdos_renyi(epsilon=20)`` and ``sparsity=None``.
    Grown weights start at zero, as in its Keras code and in RigL's.

    Args:
        model: Any module; the selected weights are made sparse in place.
        optimizer: The optimizer, or several that step in this order.
        sparsity: Fraction in [0, 1) of zeros over the selected weights; None where ``allocation``
            fixes it.
        n_steps: Optimizer steps of the whole training.
        seed: Seed of the topology and of all later draws.
        allocation: How the budget is spread over layers.
        structure: What a unit is.
        select: Predicate (name, module, parameter) -> bool, or globs over parameter names.
        interval: Steps from one rewiring to the next: 100 in RigL's code.
        drop_fraction: Fraction of the active units that a rewiring replaces: a number falls along
            half a cosine to 0 (0.3: RigL's default), or a schedule.
        stop_at: Fraction of the training at which rewiring stops: 0.75 (RigL: 25,000 of 32,000
            steps on ImageNet, 75,000 of 97,656 on CIFAR-10).
        drop: Scores of active units; the lowest go. SET: the same fraction of either sign;
            ``magnitude`` is what RigL's and later codes call SET.
        regrow: A unit that is dropped and chosen again at once keeps its value and state
            ("keep"), starts at "zero", or may "never" be chosen.
        weight_step: The weights step, then the topology changes ("before": SET in RigL's code and
            ITOP), or the other way round ("after"), or no weight step at all ("skip").
        process_group: Ranks that train the same model: "auto", a group, or None.

    Returns:
        The updater; nothing needs to be called in the training loop.

    Raises:
        SparsityError: The budget cannot be met, or a weight is in no optimizer; nothing was
            changed.
        ValueError: An argument is out of range, or no rewiring would ever be due.
    """
    window = UpdateWindow.of_training(n_steps, interval=interval, stop_at=stop_at)
    rule = Rule(
        drop=drop,
        grow=random,
        drop_fraction=annealed(drop_fraction, end=window.stop),
        window=window,
        regrow=regrow,
        weight_step=weight_step,
    )
    return attach(
        model,
        optimizer,
        sparsity=sparsity,
        rule=rule,
        takes=structures_of("set_training"),
        seed=seed,
        allocation=allocation,
        structure=structure,
        select=select,
        process_group=process_group,
    )
