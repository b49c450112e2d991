"""What every method does with its rule: choose weights, draw topologies, attach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

from torch import nn
from torch.optim import Optimizer

from regrow._checks import check_choice, check_fraction, check_is_structure
from regrow.allocation import Allocation, erdos_renyi_kernel
from regrow.criteria import Score, gradient, random
from regrow.methods._structures import Takes
from regrow.schedules import UpdateWindow, cosine, cubic
from regrow.topology import Structure, Unstructured
from regrow.training import (
    Part,
    ProcessGroup,
    Rule,
    Select,
    TopologyUpdater,
    global_magnitude,
    prepare_layers,
)
from regrow.typing import Schedule

Growth = Literal["random", "gradient"]
_GROWTH = {"random": random, "gradient": gradient}

ERK = erdos_renyi_kernel()
UNSTRUCTURED = Unstructured()
OVER_ALL_LAYERS = global_magnitude()


def attach(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    sparsity: float | None,
    rule: Rule | None,
    takes: Takes,
    seed: int,
    allocation: Allocation,
    structure: Structure,
    select: Select,
    process_group: ProcessGroup,
    target: float | None = None,
) -> TopologyUpdater:
    """Choose weights, draw topologies at ``sparsity`` and hand them to an updater.

    In a call of ``combine`` the part is handed over instead, and nothing is changed yet.

    Raises:
        TypeError: ``seed`` is no integer, or ``structure`` no structure.
        ValueError: ``sparsity`` is out of range.
        SparsityError: The method does not take the structure, or see ``TopologyUpdater`` and
            ``prepare_layers``; nothing was changed.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if sparsity is not None:
        check_fraction(sparsity, "sparsity")
    check_is_structure(structure)
    takes.check(structure)
    layers = prepare_layers(
        model,
        sparsity=sparsity,
        allocation=allocation,
        structure=structure,
        select=select,
        seed=seed,
        target=target,
    )
    part = Part(layers, rule, allocation)
    if isinstance(optimizer, StandIn):
        raise PartReady(part)
    return TopologyUpdater(model, optimizer, parts=[part], seed=seed, process_group=process_group)


@final
class StandIn(list[Optimizer]):
    """What ``combine`` passes as the optimizer: it wants the part, not yet an updater."""


@final
class PartReady(Exception):  # noqa: N818 - no error: how the part gets out of a method
    """Raised by ``attach`` in place of attaching."""

    def __init__(self, part: Part) -> None:
        super().__init__("a part was prepared")
        self.part = part


def growth_criterion(growth: str) -> Score:
    """The criterion of a growth rule by name.

    Raises:
        ValueError: Unknown name.
    """
    return _GROWTH[check_choice(growth, "growth", _GROWTH)]


def annealed(drop_fraction: float | Schedule, *, end: int, last: float = 0.0) -> Schedule:
    """A drop fraction as a schedule: a number falls along half a cosine to ``last`` at ``end``.

    Raises:
        ValueError: A number outside [0, 1].
    """
    if callable(drop_fraction):
        return drop_fraction
    first = check_fraction(drop_fraction, "drop_fraction", closed=True)
    return cosine(first, min(first, last), end=end)


def pruning_target(
    initial_sparsity: float,
    sparsity: float,
    *,
    window: UpdateWindow,
    prune_until: float,
    n_steps: int,
) -> Schedule:
    """A cubic target that is met exactly by a rewiring.

    Args:
        initial_sparsity: Sparsity up to the window's start, at most ``sparsity``.
        sparsity: Sparsity at the end.
        window: When rewirings happen.
        prune_until: Fraction in (0, 1] of the training by which the target is met; the cubic ends
            at the last rewiring up to there.
        n_steps: Optimizer steps of the whole training.

    Raises:
        ValueError: ``initial_sparsity`` lies above ``sparsity``, or no rewiring comes before
            ``prune_until``.
    """
    first = check_fraction(initial_sparsity, "initial_sparsity")
    if first > sparsity:
        raise ValueError(
            f"initial_sparsity={first:g} lies above sparsity={sparsity:g}: pruning only removes; "
            f"pass an initial_sparsity of at most {sparsity:g}"
        )
    check_fraction(prune_until, "prune_until", closed=True)
    in_time = [step for step in window.steps if step <= prune_until * n_steps]
    if not in_time:
        raise ValueError(
            f"no rewiring is due by prune_until={prune_until:g} of {n_steps} steps: the first is "
            f"at step {window.steps[0]}; choose a shorter interval"
        )
    return cubic(first, sparsity, start=window.start, end=in_time[-1])
