"""ScaleWatch: whether a GradScaler's factor is taken out of the gradients exactly once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from regrow.diagnostics._setup import parameters_of

_LEAST_SCALE = 16.0
"""Below it, a factor of the scale could as well be an average over micro-batches."""
_NEAR = 0.02


@final
@dataclass(frozen=True)
class Misscaled:
    """A gradient that reached the optimizer with the wrong power of the scale.

    Args:
        kind: ``"before"`` or ``"after"``: shrunk before, or again after ``unscale_``; ``"never"``:
            scaled, not unscaled; ``"not-scaled"``: unscaled, though ``scale(loss)`` was not called.
        factor: Norm there over norm at the end of the backward pass, or over that unscaled.
        scale: The scaler's factor.
        optimizer: Class name of the optimizer.
    """

    kind: str
    factor: float
    scale: float
    optimizer: str


@final
class ScaleWatch:
    """Compares the norm of gradients at the end of backward, at ``unscale_`` and at the step.

    A clip after ``unscale_`` is allowed to shrink as much as it likes. Before it nothing is: a
    factor below ``1 / sqrt(scale)`` there leaves gradients that are too small by about the scale.

    Args:
        scalers: The GradScalers in ``also``.
        optimizers: The optimizers passed.
    """

    def __init__(
        self, scalers: Sequence[torch.amp.GradScaler], optimizers: Sequence[Optimizer]
    ) -> None:
        self.found: dict[str, Misscaled] = {}
        self.overflowed = False
        self._scalers = [scaler for scaler in scalers if scaler.is_enabled()]
        self._optimizers = optimizers
        self.begin()

    def begin(self) -> None:
        """``step`` is about to be called."""
        self._arrived: dict[int, Tensor] = {}
        self._unscaled: dict[int, tuple[float, float]] = {}
        self._scaled = False

    def attach(self, stack: ExitStack) -> None:
        """Watch until the stack unwinds; nothing to do without a scaler."""
        for scaler in self._scalers:
            _wrap(stack, scaler, "scale", self._on_scale)
            _wrap(stack, scaler, "unscale_", self._on_unscale(scaler))
        if self._scalers:
            parameters = {id(p): p for o in self._optimizers for p in parameters_of(o)}
            for parameter in parameters.values():
                if parameter.requires_grad and parameter.is_leaf:
                    handle = parameter.register_post_accumulate_grad_hook(self._arrival)  # type: ignore[no-untyped-call]
                    stack.callback(handle.remove)

    def ready(self, optimizer: Optimizer) -> None:
        """The optimizer is about to step."""
        if not self._scalers or not any(one is optimizer for one in self._optimizers):
            return
        scale = self._scalers[0].get_scale()
        now, arrived = self._norm(optimizer)
        if getattr(optimizer, "grad_scale", None) is not None:
            self._judge_before(optimizer, now, arrived, scale)  # its kernel unscales
        elif id(optimizer) in self._unscaled:
            norm, scale = self._unscaled[id(optimizer)]
            factor = now / norm if norm else 1.0
            if scale >= _LEAST_SCALE and abs(factor * scale - 1) < _NEAR:
                self._report("after", factor, scale, optimizer)
        elif self._scaled and arrived and scale >= _LEAST_SCALE and now / arrived > scale**-0.5:
            self._report("never", now / arrived, scale, optimizer)
        self._unscaled.pop(id(optimizer), None)

    def _on_scale(self, original: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
        self._scaled = True
        return original(*args)

    def _on_unscale(self, scaler: torch.amp.GradScaler) -> Callable[..., None]:
        def unscale(original: Callable[..., Any], optimizer: Optimizer) -> None:
            norm, arrived = self._norm(optimizer)
            scale = scaler.get_scale()
            original(optimizer)
            self._judge_before(optimizer, norm, arrived, scale)
            self._unscaled[id(optimizer)] = (self._norm(optimizer)[0], scale)

        return unscale

    def _judge_before(
        self, optimizer: Optimizer, norm: float, arrived: float, scale: float
    ) -> None:
        if not torch.tensor(norm).isfinite():
            self.overflowed = True
        elif scale < _LEAST_SCALE or not arrived:
            return
        elif not self._scaled:
            self._report("not-scaled", 1 / scale, scale, optimizer)
        elif norm / arrived < scale**-0.5:
            self._report("before", norm / arrived, scale, optimizer)

    def _report(self, kind: str, factor: float, scale: float, optimizer: Optimizer) -> None:
        found = Misscaled(kind, factor, scale, type(optimizer).__name__)
        self.found.setdefault(kind, found)

    def _arrival(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._arrived[id(parameter)] = _norm_of([parameter.grad])

    def _norm(self, optimizer: Optimizer) -> tuple[float, float]:
        """Norm of the gradients now, and of the same ones when they arrived."""
        mine = [
            p for p in parameters_of(optimizer) if p.grad is not None and id(p) in self._arrived
        ]
        if not mine:
            return 0.0, 0.0
        arrived = torch.stack([self._arrived[id(p)].to(mine[0].device) for p in mine])
        now = _norm_of([p.grad for p in mine if p.grad is not None])
        return float(now), float(arrived.norm())


@torch.no_grad()
def _norm_of(tensors: Sequence[Tensor]) -> Tensor:
    # Doubles: the square of a scaled gradient overflows a float.
    norms = [tensor.double().norm() for tensor in tensors]
    total: Tensor = torch.stack([norm.to(norms[0].device) for norm in norms]).norm()
    return total


def _wrap(stack: ExitStack, owner: object, method: str, around: Callable[..., Any]) -> None:
    """Put a function around a method of one object, and take it away when the stack unwinds."""
    attributes, original = vars(owner), getattr(owner, method)
    had = attributes.get(method)

    def wrapped(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return around(original, *args, *kwargs.values())

    attributes[method] = wrapped

    def put_back() -> None:
        attributes.pop(method, None)
        if had is not None:
            attributes[method] = had

    stack.callback(put_back)
