"""Evidence: all that the three calls showed, for the verdicts to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch.optim import Optimizer

from regrow.diagnostics._gradients import GradWatch
from regrow.diagnostics._hidden import ModuleWatch
from regrow.diagnostics._scaling import ScaleWatch
from regrow.diagnostics._setup import Setup
from regrow.diagnostics._steps import Call, StepWatch


@final
@dataclass(frozen=True, eq=False)
class Raised:
    """What ``step`` raised instead of returning.

    Args:
        error: The exception.
        place: The user's last line, as ``file:line: code``.
        call: In which call.
    """

    error: Exception
    place: str
    call: int


@final
@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything seen.

    Args:
        setup: What was passed, and who holds what.
        steps: The optimizers' steps.
        grads: The gradients' arrival.
        scales: The scaler's factor.
        modules: Layers that run unregistered.
        raised: What ended the examination early, or None.
    """

    setup: Setup
    steps: StepWatch
    grads: GradWatch
    scales: ScaleWatch
    modules: ModuleWatch
    raised: Raised | None

    @property
    def calls(self) -> list[Call]:
        """The calls, complete or not."""
        return self.steps.calls

    @property
    def n_complete(self) -> int:
        """Calls that returned."""
        return sum(call.is_complete for call in self.calls)

    @property
    def n_counted(self) -> int:
        """Steps that the updater counted in all calls."""
        return sum(call.counted[-1] for call in self.calls if call.counted)

    def is_passed(self, optimizer: Optimizer) -> bool:
        """Whether this optimizer is one of those passed."""
        return any(one is optimizer for one in self.setup.optimizers)

    def times_stepped(self, optimizer: Optimizer) -> int:
        """Steps of one optimizer in all calls."""
        return sum(one is optimizer for call in self.calls for one in call.stepped)


def listed(names: list[str], most: int = 4) -> str:
    """Quoted names, the first few."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
