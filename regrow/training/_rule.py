"""Rule: how an updater rewires."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from regrow._checks import check_choice
from regrow.criteria import reads_gradient
from regrow.schedules import UpdateWindow
from regrow.training._budgets import Budget, per_layer
from regrow.training._rewire import REGROW
from regrow.typing import Criterion, Regrow, Schedule, WeightStep

_WEIGHT_STEPS: tuple[WeightStep, ...] = ("before", "after", "skip")


@final
@dataclass(frozen=True)
class Rule:
    """How an updater rewires; None in ``TopologyUpdater`` for a topology that stays.

    Args:
        drop: Scores of active units; the lowest go.
        grow: Scores of the others; the highest enter.
        drop_fraction: Step -> fraction in [0, 1] of the active units.
        window: When.
        target: Step -> sparsity over all layers, or None to keep it.
        budget: How many units each layer drops and grows; by default as many as it drops.
        regrow: What happens to a unit that is dropped and chosen again: see ``rewire``.
        weight_step: On a step that rewires, ``"before"``: the weights step, then the topology
            changes (SET, ITOP); ``"after"``: the topology changes, then the weights step;
            ``"skip"``: the rewiring takes the place of the weight step (RigL).

    Raises:
        ValueError: ``regrow`` or ``weight_step`` is unknown.
    """

    drop: Criterion
    grow: Criterion
    drop_fraction: Schedule
    window: UpdateWindow
    target: Schedule | None = None
    budget: Budget = field(default_factory=per_layer)
    regrow: Regrow = "keep"
    weight_step: WeightStep = "before"

    def __post_init__(self) -> None:
        check_choice(self.regrow, "regrow", REGROW)
        check_choice(self.weight_step, "weight_step", _WEIGHT_STEPS)

    @property
    def reads_gradient(self) -> bool:
        """Whether dropping or growing reads the dense gradient."""
        return reads_gradient(self.drop) or reads_gradient(self.grow)
