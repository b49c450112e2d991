"""StepWatch: which optimizers step during a call, and what stands in the gradients then."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from regrow.diagnostics._setup import Setup, holds
from regrow.diagnostics._snapshot import Snapshot

_Hooked = tuple[tuple[Any, ...], dict[str, Any]]


@final
@dataclass
class Call:
    """What one call of ``step`` showed.

    Args:
        number: 1, 2 or 3.
        stepped: The optimizers, in the order in which they stepped.
        counted: ``updater.steps`` made so far in this call, after each of these.
        rewired: Whether a rewiring was done.
        with_grad: Sparse weights whose gradient was not all zero when an optimizer stepped.
        dead_grads: Sparse weight -> gradients at dead entries, on a step that does not rewire.
        dead_weights: Sparse weight -> dead entries that are not zero after the call.
        is_complete: Whether ``step`` returned.
    """

    number: int
    stepped: list[Optimizer] = field(default_factory=list)
    counted: list[int] = field(default_factory=list)
    rewired: bool = False
    with_grad: set[str] = field(default_factory=set)
    dead_grads: dict[str, int] = field(default_factory=dict)
    dead_weights: dict[str, int] = field(default_factory=dict)
    is_complete: bool = False


@final
class StepWatch:
    """Hooks on all optimizers of the process, passed or not.

    Args:
        setup: What was passed.
        known: Optimizers whose state is kept already; others are kept on their first step.
        ready: Called with the optimizer when its gradients are complete.
    """

    def __init__(
        self, setup: Setup, known: list[Optimizer], ready: Callable[[Optimizer], None]
    ) -> None:
        self.calls: list[Call] = []
        self.strangers = Snapshot(grads=False)
        self.strange: list[Optimizer] = []
        self._setup = setup
        self._kept = list(known)
        self._ready = ready
        self._running: list[Optimizer] = []
        self._pending: dict[str, int] = {}
        self._is_finite = True
        self._counts = (0, 0)

    def attach(self, stack: ExitStack) -> None:
        """Watch until the stack unwinds."""
        stack.callback(register_optimizer_step_pre_hook(self._before).remove)
        stack.callback(register_optimizer_step_post_hook(self._after).remove)

    def begin(self, call: Call) -> None:
        """``step`` is about to be called."""
        self.calls.append(call)
        self._running, self._pending, self._is_finite = [], {}, True
        self._counts = self._now()
        self._steps_before = self._counts[0]

    def end(self) -> None:
        """``step`` has returned: see what it left in the weights."""
        call = self.calls[-1]
        call.is_complete = True
        call.dead_weights = {
            name: n
            for name, weight in self._setup.weights.items()
            if (n := self._dead_entries(name, weight.detach()))
        }

    def _now(self) -> tuple[int, int]:
        return self._setup.updater.steps, self._setup.updater.rewirings

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Hooked | None:
        self._running.append(optimizer)
        self._keep(optimizer)
        if len(self._running) > 1:  # super().step(), or an optimizer inside another one
            return None
        if not _is_among(optimizer, [*self._setup.optimizers, *self.strange]):
            self.strange.append(optimizer)
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._look(optimizer)
            return None

        def watched() -> object:
            loss = closure()
            self._look(optimizer)
            return loss

        if len(args) > 1:
            return (args[0], watched, *args[2:]), kwargs
        return args, {**kwargs, "closure": watched}

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del args, kwargs
        self._running = self._running[:-1]
        if self._running:
            return
        call, now = self.calls[-1], self._now()
        call.stepped.append(optimizer)
        call.counted.append(now[0] - self._steps_before)
        if now[0] > self._counts[0]:
            rewired = now[1] > self._counts[1]
            call.rewired = call.rewired or rewired
            # Before a rewiring, or one that waits for finite gradients, they may be dense.
            if not rewired and self._is_finite:
                for name, n in self._pending.items():
                    call.dead_grads[name] = max(n, call.dead_grads.get(name, 0))
            self._pending, self._is_finite, self._counts = {}, True, now

    def _keep(self, optimizer: Optimizer) -> None:
        if not _is_among(optimizer, self._kept):
            self._kept.append(optimizer)
            self.strangers.add(optimizer)

    def _look(self, optimizer: Optimizer) -> None:
        for name, weight in self._setup.weights.items():
            if weight.grad is None or not holds(optimizer, weight):
                continue
            if bool(weight.grad.any()):
                self.calls[-1].with_grad.add(name)
            self._is_finite = self._is_finite and bool(weight.grad.isfinite().all())
            if n := self._dead_entries(name, weight.grad):
                self._pending[name] = n
        self._ready(optimizer)

    @torch.no_grad()
    def _dead_entries(self, name: str, values: Tensor) -> int:
        topology = self._setup.updater.topologies[name]
        if topology.is_compact:
            return 0  # a truly sparse layer has none
        dead = topology.mask.to(values.device).logical_not()
        return int((values[dead] != 0).count_nonzero())


def _is_among(optimizer: Optimizer, others: list[Optimizer]) -> bool:
    return any(optimizer is other for other in others)
