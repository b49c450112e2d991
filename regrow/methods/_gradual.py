"""Gradual magnitude pruning (GMP)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from regrow._checks import check_fraction
from regrow.allocation import Allocation
from regrow.criteria import magnitude, random
from regrow.methods._attach import ERK, OVER_ALL_LAYERS, UNSTRUCTURED, attach, pruning_target
from regrow.methods._structures import structures_of
from regrow.schedules import UpdateWindow, constant
from regrow.topology import Structure
from regrow.training import (
    Budget,
    ProcessGroup,
    Rule,
    Select,
    TopologyUpdater,
    default_weights,
)
from regrow.typing import Criterion, WeightStep


def gradual(
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
    initial_sparsity: float = 0.0,
    start_at: float = 0.2,
    stop_at: float = 0.75,
    budget: Budget = OVER_ALL_LAYERS,
    drop: Criterion = magnitude,
    weight_step: WeightStep = "before",
    process_group: ProcessGroup = "auto",
) -> TopologyUpdater:
    """Gradual magnitude pruning: from dense to sparse along a cubic; nothing grows.

    Zhu and Gupta 2017, "To prune, or not to prune"; Gale et al. 2019. What is pruned stays zero.

    Args:
        model: Any module; the selected weights are made sparse in place.
        optimizer: The optimizer, or several that step in this order.
        sparsity: Fraction in [0, 1) of zeros over the selected weights at the end.
        n_steps: Optimizer steps of the whole training.
        seed: Seed of the topology and of all later draws.
        allocation: How the budget is spread over layers at the start, where
            ``initial_sparsity`` is above 0.
        structure: What a unit is.
        select: Predicate (name, module, parameter) -> bool, or globs over parameter names.
        interval: Steps from one pruning to the next (1,000 on CIFAR-10 in RigL's code).
        initial_sparsity: Sparsity at the start: 0, dense.
        start_at: Fraction of the training behind which pruning begins: 0.2 (RigL's code: 20,000
            of 97,656 steps).
        stop_at: Fraction of the training by which the target is met: 0.75 (75,000 of 97,656).
        budget: How pruning is spread over layers: over all by magnitude, or
            ``per_layer(allocation=uniform())`` as Zhu and Gupta do.
        drop: Scores of active units; the lowest go.
        weight_step: The weights step, then the topology changes ("before"), or the other way
            round ("after"), or no weight step at all ("skip").
        process_group: Ranks that train the same model: "auto", a group, or None.

    Returns:
        The updater; nothing needs to be called in the training loop.

    Raises:
        SparsityError: The budget cannot be met, or a weight is in no optimizer; nothing was
            changed.
        ValueError: An argument is out of range, or no rewiring would ever be due.
    """
    target = check_fraction(sparsity, "sparsity")
    window = UpdateWindow.of_training(
        n_steps, interval=interval, stop_at=stop_at, start_at=start_at
    )
    rule = Rule(
        drop=drop,
        grow=random,
        drop_fraction=constant(0.0),
        window=window,
        target=pruning_target(
            initial_sparsity, target, window=window, prune_until=stop_at, n_steps=n_steps
        ),
        budget=budget,
        weight_step=weight_step,
    )
    return attach(
        model,
        optimizer,
        sparsity=initial_sparsity,
        rule=rule,
        takes=structures_of("gradual", budget=budget),
        seed=seed,
        allocation=allocation,
        structure=structure,
        select=select,
        process_group=process_group,
    )
