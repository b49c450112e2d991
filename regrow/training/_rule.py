"""Rule: how layers are rewired; Part: layers with their rule."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from regrow._checks import check_choice
from regrow.criteria import reads_gradient, reads_past
from regrow.errors import SparsityError
from regrow.schedules import UpdateWindow
from regrow.training._budgets import Budget, per_layer
from regrow.training._compact import no_past
from regrow.training._rewire import REGROW
from regrow.typing import Criterion, Regrow, Schedule, WeightStep

if TYPE_CHECKING:
    from regrow.allocation import Allocation
    from regrow.training._layer import Layer

_WEIGHT_STEPS: tuple[WeightStep, ...] = ("before", "after", "skip")


@final
@dataclass(frozen=True)
class Rule:
    """How layers are rewired; a ``Part`` without one keeps its topologies.

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


@final
@dataclass(frozen=True, eq=False)
class Part:
    """Layers of a model that are rewired together, by one rule.

    Args:
        layers: In the order of the model.
        rule: How to rewire them; None keeps their topologies.
        allocation: For ``plan()``: the rule that gave the layers their counts.
    """

    layers: Sequence[Layer]
    rule: Rule | None
    allocation: Allocation | None = None

    def check(self) -> None:
        """Raise ``SparsityError`` if the rule cannot work on these layers."""
        if self.rule is None:
            return
        if reads_past(self.rule.drop) or reads_past(self.rule.grow):
            for layer in self.layers:
                if layer.lifetimes is None:
                    raise SparsityError(no_past(layer.name))
        if self.rule.target is None:
            self.rule.budget.check(self.layers, None)
            return
        # Each of them: whole numbers do not follow a schedule evenly, and a long run shall not
        # end at a target in between that one layer cannot meet.
        for target in sorted({self.rule.target(step) for step in self.rule.window.steps})[::-1]:
            self.rule.budget.check(self.layers, target)

    def __deepcopy__(self, memo: dict[int, object]) -> Part:
        # Rules hold functions and are never changed; layers go along with their model.
        return Part(copy.deepcopy(list(self.layers), memo), self.rule, self.allocation)

    @property
    def last_target(self) -> float | None:
        """The sparsity over these layers that the last rewiring leaves, or None."""
        if self.rule is None or self.rule.target is None:
            return None
        return self.rule.target(self.rule.window.last)

    @property
    def reads_gradient(self) -> bool:
        """Whether a rewiring reads the dense gradient."""
        return self.rule is not None and self.rule.reads_gradient
