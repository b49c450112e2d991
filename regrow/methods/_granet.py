"""GraNet: gradual pruning with neuroregeneration."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from regrow._checks import check_fraction
from regrow.allocation import Allocation
from regrow.criteria import magnitude
from regrow.methods._attach import (
    ERK,
    OVER_ALL_LAYERS,
    UNSTRUCTURED,
    Growth,
    annealed,
    attach,
    growth_criterion,
    pruning_target,
)
from regrow.methods._structures import structures_of
from regrow.schedules import UpdateWindow
from regrow.topology import Structure
from regrow.training import (
    Budget,
    ProcessGroup,
    Rule,
    Select,
    TopologyUpdater,
    default_weights,
)
from regrow.typing import Criterion, Regrow, Schedule, WeightStep


def granet(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    sparsity: float,
    n_steps: int,
    seed: int = 0,
    allocation: Allocation = ERK,
    structure: Structure = UNSTRUCTURED,
    select: Select = default_weights,
    interval: int = 100,
    growth: Growth = "gradient",
    initial_sparsity: float | None = None,
    prune_until: float = 0.6875,
    drop_fraction: float | Schedule = 0.5,
    stop_at: float = 1.0,
    budget: Budget = OVER_ALL_LAYERS,
    drop: Criterion = magnitude,
    regrow: Regrow = "keep",
    weight_step: WeightStep = "before",
    process_group: ProcessGroup = "auto",
) -> TopologyUpdater:
    """GraNet: prune gradually by global magnitude, and in each layer drop and grow besides.

    Liu et al. 2021, "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration".
    Each rewiring first prunes to a cubic target over all layers, then replaces a fraction of what
    is left in each layer. Unlike the official code, which stops one interval early, the target is
    met exactly.

    Args:
        model: Any module; the selected weights are made sparse in place.
        optimizer: The optimizer, or several that step in this order.
        sparsity: Fraction in [0, 1) of zeros over the selected weights at the end.
        n_steps: Optimizer steps of the whole training.
        seed: Seed of the topology and of all later draws.
        allocation: How the budget is spread over layers at the start.
        structure: What a unit is.
        select: Predicate (name, module, parameter) -> bool, or globs over parameter names.
        interval: Steps from one rewiring to the next (official: 1,000 on CIFAR, 4,000 on
            ImageNet).
        growth: "gradient" as in the official code, or "random" (the GraNet_r of Wu et al. 2025).
        initial_sparsity: Sparsity at the start; None: 0.5 as in the published sparse-to-sparse
            runs, or 0 (dense-to-sparse) for targets up to 0.5.
        prune_until: Fraction of the training by which the target is met: 110 of 160 epochs in the
            official code.
        drop_fraction: Fraction that is replaced: a number falls along half a cosine to 0.005 at
            the end of the training (0.5: official), or a schedule.
        stop_at: Fraction of the training at which rewiring stops: never, in the official code.
        budget: How pruning is spread over layers.
        drop: Scores of active units; the lowest go.
        regrow: A unit that is dropped and chosen again at once keeps its value and state
            ("keep"), starts at "zero", or may "never" be chosen. One that was pruned and chosen
            again starts at zero in any case.
        weight_step: The weights step, then the topology changes ("before": official), or the
            other way round ("after"), or no weight step at all ("skip").
        process_group: Ranks that train the same model: "auto", a group, or None.

    Returns:
        The updater; nothing needs to be called in the training loop.

    Raises:
        SparsityError: The budget cannot be met, or a weight is in no optimizer; nothing was
            changed.
        ValueError: An argument is out of range, or no rewiring would ever be due.
    """
    target = check_fraction(sparsity, "sparsity")
    if initial_sparsity is None:
        initial_sparsity = 0.5 if target > 0.5 else 0.0
    window = UpdateWindow.of_training(n_steps, interval=interval, stop_at=stop_at)
    rule = Rule(
        drop=drop,
        grow=growth_criterion(growth),
        drop_fraction=annealed(drop_fraction, end=n_steps, last=0.005),
        window=window,
        target=pruning_target(
            initial_sparsity, target, window=window, prune_until=prune_until, n_steps=n_steps
        ),
        budget=budget,
        regrow=regrow,
        weight_step=weight_step,
    )
    return attach(
        model,
        optimizer,
        sparsity=initial_sparsity,
        rule=rule,
        takes=structures_of("granet", budget=budget),
        seed=seed,
        allocation=allocation,
        structure=structure,
        select=select,
        process_group=process_group,
    )
