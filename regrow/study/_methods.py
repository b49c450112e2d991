"""The methods of a comparison by name, all attached in the same way."""

from collections.abc import Callable
from functools import partial

from torch import nn
from torch.optim import Optimizer

import regrow
from regrow import TopologyUpdater, criteria
from regrow._checks import check_choice, check_fraction
from regrow.allocation import RULES
from regrow.study._schedule import RewiringSchedule

DENSE = ("dense", "dense-equal-parameters")
"""Dense controls, by name."""
DYNAMIC = ("set", "rigl", "mest-random", "mest-gradient", "granet-random", "granet-gradient")
"""Methods that rewire at a sparsity that they keep or approach."""
SCHEDULED = (*DYNAMIC, "gradual")
"""Methods that need a schedule of rewirings."""
METHODS = (*DENSE, "static", *SCHEDULED)
"""All methods that a study can name."""
WEIGHT_STEPS = ("before", "after", "skip")
"""What a rewiring step can do to the weights: see ``Rule``."""
_GRANET_INITIAL_SPARSITY = 0.2
ALLOCATIONS = tuple(RULES)
"""Allocation rules that a study can name."""
_SCHEDULED: dict[str, Callable[..., TopologyUpdater]] = {
    "set": regrow.set_training,
    "rigl": regrow.rigl,
    "mest-random": partial(regrow.mest, growth="random"),
    "mest-gradient": partial(regrow.mest, growth="gradient"),
    "granet-random": partial(regrow.granet, growth="random"),
    "granet-gradient": partial(regrow.granet, growth="gradient"),
    "gradual": regrow.gradual,
}


def attach_method(
    method: str,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    sparsity: float,
    n_steps: int | None = None,
    schedule: RewiringSchedule | None = None,
    seed: int = 0,
    allocation: str = "erdos_renyi_kernel",
    weight_step: str = "before",
) -> TopologyUpdater | None:
    """Make a model sparse by a named method, with what a comparison holds equal.

    All methods drop by magnitude and make their weight step before they rewire, so that they
    differ in where they grow and in how the number of connections changes: the comparison of
    "Dynamic sparse training versus dense training" (Wu et al., ICLR 2025, 3.2). GraNet starts at
    sparsity 0.2 as it does there, and dense where the target is not above 0.2. What is not named
    here is as in each method's own function, but that gradual pruning rewires as often as the
    others and from the start, not from 0.2 of the run on.

    Args:
        method: One of `METHODS`.
        model: The model; left as it is by ``"dense"`` and ``"dense-equal-parameters"``.
        optimizer: Of all the model's parameters.
        sparsity: Target in [0, 1); not used by the dense methods, which must be given 0 or the
            sparsity that they are compared with.
        n_steps: Weight steps of the run; needed by methods that rewire.
        schedule: When to rewire; needed by the same methods.
        seed: The run's seed.
        allocation: How much each layer gets, one of `ALLOCATIONS`.
        weight_step: ``"before"``, ``"after"`` or ``"skip"``: whether the weights move before the
            rewiring, after it, or not at all in a step that rewires.

    Returns:
        The updater, or None for a dense method.

    Raises:
        ValueError: An unknown name, a sparsity that cannot be met, or a missing schedule.
    """
    check_choice(method, "method", METHODS)
    check_choice(allocation, "allocation", ALLOCATIONS)
    check_choice(weight_step, "weight_step", WEIGHT_STEPS)
    sparsity = check_fraction(sparsity, "sparsity")
    if method in DENSE:
        return None
    rule = RULES[allocation]()
    if method == "static":
        return regrow.static(model, optimizer, sparsity=sparsity, seed=seed, allocation=rule)
    if n_steps is None or schedule is None:
        raise ValueError(f"method {method!r} rewires: it needs n_steps and a schedule")
    return _SCHEDULED[method](
        model,
        optimizer,
        sparsity=sparsity,
        seed=seed,
        allocation=rule,
        n_steps=n_steps,
        interval=schedule.interval,
        stop_at=schedule.stop_at,
        drop=criteria.magnitude,
        weight_step=weight_step,
        **_extra(method, sparsity),
    )


def _extra(method: str, sparsity: float) -> dict[str, float]:
    """What only some methods take."""
    if method.startswith("granet"):
        start = _GRANET_INITIAL_SPARSITY
        return {"initial_sparsity": start if sparsity > start else 0.0}
    # By itself it would prune in fewer steps than the others rewire in, from 0.2 of the run on.
    return {"start_at": 0.0} if method == "gradual" else {}
