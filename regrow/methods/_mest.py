"""MEST: a soft memory bound that shrinks to the target."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from regrow._checks import check_fraction
from regrow.allocation import Allocation
from regrow.criteria import magnitude
from regrow.methods._attach import ERK, UNSTRUCTURED, Growth, annealed, attach, growth_criterion
from regrow.methods._structures import structures_of
from regrow.schedules import UpdateWindow, piecewise
from regrow.topology import Structure
from regrow.training import (
    ProcessGroup,
    Rule,
    Select,
    TopologyUpdater,
    default_weights,
    per_layer,
)
from regrow.typing import Criterion, Regrow, Schedule, WeightStep


def mest(
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
    growth: Growth = "random",
    soft_bound: float | Schedule = 0.1,
    drop_fraction: float | Schedule = 0.0,
    stop_at: float = 0.75,
    drop: Criterion = magnitude,
    regrow: Regrow = "zero",
    weight_step: WeightStep = "before",
    process_group: ProcessGroup = "auto",
) -> TopologyUpdater:
    """MEST with its soft memory bound (EM&S): prune to the target, grow above it, less and less.

    Yuan et al. 2021, "MEST". While it explores the model holds ``1 + soft_bound`` times the
    connections of the target; each rewiring prunes it to the target and grows back to the bound;
    the last rewiring leaves exactly the target. With ``soft_bound=0`` and a ``drop_fraction`` it
    is their EM.

    Args:
        model: Any module; the selected weights are made sparse in place.
        optimizer: The optimizer, or several that step in this order.
        sparsity: Fraction in [0, 1) of zeros over the selected weights at the end.
        n_steps: Optimizer steps of the whole training.
        seed: Seed of the topology and of all later draws.
        allocation: How the budget is spread over layers (the official code
            lists uniform ratios by layer).
        structure: What a unit is.
        select: Predicate (name, module, parameter) -> bool, or globs over parameter names.
        interval: Steps from one rewiring to the next (the official code: 5 epochs).
        growth: "random" as in the official code, or "gradient" (the MEST_g of Wu et al. 2025).
        soft_bound: Connections held above the target, as a fraction of it: a number holds until
            3/4 of the rewirings are done, then half of it, then 0 at the last one, which is the
            shape of the official stages at epochs 0, 90 and 120; or a schedule. 0.1: Wu et al.
            2025, as quoted by its reviewers; when theirs decays could not be found. Truly sparse
            layers may be at the target when training starts: the first rewiring adds these.
        drop_fraction: Dropped below the target before growth, as a fraction of the connections:
            a number falls along half a cosine to 0, or a schedule.
        stop_at: Fraction of the training at which rewiring stops: 0.75 (120 of 160 epochs).
        drop: Scores of active units; the lowest go. The official code ranks by |w| + lambda |g|
            with lambda 0 by default; ``weighted_sum`` makes others.
        regrow: A unit that is dropped and chosen again starts at "zero", as in the official code;
            or "keep"s its value; or may "never" be chosen.
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
    window = UpdateWindow.of_training(n_steps, interval=interval, stop_at=stop_at)
    bound = _staged(soft_bound, window)
    fraction = annealed(drop_fraction, end=window.last)

    def held(step: int) -> float:
        above = 0.0 if step >= window.last else bound(step)
        return max(1 - (1 - target) * (1 + above), 0.0)

    def dropped(step: int) -> float:
        # Of what is held now, so much that 1 - fraction of the target is left.
        return 1 - (1 - target) * (1 - fraction(step)) / (1 - held(step))

    rule = Rule(
        drop=drop,
        grow=growth_criterion(growth),
        drop_fraction=dropped,
        window=window,
        target=held,
        budget=per_layer(allocation=allocation),
        regrow=regrow,
        weight_step=weight_step,
    )
    return attach(
        model,
        optimizer,
        sparsity=held(0),
        target=target,
        rule=rule,
        takes=structures_of("mest"),
        seed=seed,
        allocation=allocation,
        structure=structure,
        select=select,
        process_group=process_group,
    )


def _staged(soft_bound: float | Schedule, window: UpdateWindow) -> Schedule:
    if callable(soft_bound):
        return soft_bound
    if not soft_bound >= 0:
        raise ValueError(f"soft_bound must be at least 0, got {soft_bound!r}")
    half_from = max(window.last * 3 // 4, 1)
    return piecewise((0, soft_bound), (half_from, soft_bound / 2))
