"""GradWatch: which hooks of the user change gradients on their way into ``.grad``."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from regrow.diagnostics._setup import Setup

_TOLERANCE = 1e-3
"""Relative; what a hook in half precision may lose when it scales."""


@final
@dataclass(frozen=True)
class Rewritten:
    """A gradient that a hook changed other than by one common factor.

    Args:
        layer: The sparse weight.
        hook: The hook's name and where it is written.
        method: ``"register_hook"`` or ``"register_post_accumulate_grad_hook"``.
        n_changed: Entries changed, of ``n_elements``.
        n_zeroed: Entries of these that the hook set to zero.
        n_elements: Entries of the weight.
    """

    layer: str
    hook: str
    method: str
    n_changed: int
    n_zeroed: int
    n_elements: int


@final
class GradWatch:
    """Wraps the hooks that the user put on sparse weights, and sees gradients arrive.

    Args:
        setup: What was passed.
    """

    def __init__(self, setup: Setup) -> None:
        self.arrived: set[str] = set()
        self.rewritten: dict[tuple[str, str], Rewritten] = {}
        self._setup = setup

    def attach(self, stack: ExitStack) -> None:
        """Watch until the stack unwinds."""
        for name, weight in self._setup.weights.items():
            if not weight.requires_grad:
                continue
            # torch has no public list of a tensor's hooks; the dicts are what its engine calls.
            before = weight._backward_hooks or {}
            after = getattr(weight, "_post_accumulate_grad_hooks", None) or {}
            for key, hook in list(before.items()):
                _replace(stack, before, key, self._around(name, hook))
            for key, hook in list(after.items()):
                if not type(hook).__module__.startswith("regrow."):
                    _replace(stack, after, key, self._around_accumulated(name, hook))
            handle = weight.register_post_accumulate_grad_hook(self._arrival(name))  # type: ignore[no-untyped-call]
            stack.callback(handle.remove)

    def _arrival(self, name: str) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            del parameter
            self.arrived.add(name)

        return hook

    def _around(self, name: str, hook: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
        def wrapped(grad: Tensor) -> Tensor | None:
            before = grad.detach().clone()
            result = hook(grad)
            self._compare(name, hook, "register_hook", before, grad if result is None else result)
            return result

        return wrapped

    def _around_accumulated(self, name: str, hook: Callable[[Tensor], None]) -> Callable[..., Any]:
        def wrapped(parameter: Tensor) -> None:
            before = None if parameter.grad is None else parameter.grad.detach().clone()
            hook(parameter)
            # (A hook that steps the optimizer in the backward pass leaves None.)
            if before is not None and parameter.grad is not None:
                method = "register_post_accumulate_grad_hook"
                self._compare(name, hook, method, before, parameter.grad)

        return wrapped

    @torch.no_grad()
    def _compare(
        self, name: str, hook: Callable[..., object], method: str, before: Tensor, after: Tensor
    ) -> None:
        before, after = before.detach().double(), after.detach().double()
        if before.shape != after.shape or not bool(before.isfinite().all()):
            return
        norm = before.square().sum()
        factor = (before * after).sum() / norm if norm > 0 else norm
        # One factor for all is clipping by norm or averaging, and keeps the order of entries.
        scaled = before * factor.clamp(min=0)
        changed = (after - scaled).abs() > _TOLERANCE * after.abs().max()
        if factor <= 0 < norm:
            changed = before != after
        if n_changed := int(changed.count_nonzero()):
            n_changed = max(n_changed, int((before != after).count_nonzero()))
            zeroed = int(((after == 0) & (before != 0)).count_nonzero())
            found = Rewritten(name, _described(hook), method, n_changed, zeroed, before.numel())
            self.rewritten.setdefault((name, found.hook), found)


def _replace(
    stack: ExitStack, hooks: MutableMapping[Any, Any], key: object, wrapped: Callable[..., Any]
) -> None:
    original = hooks[key]
    hooks[key] = wrapped

    def put_back() -> None:
        if hooks.get(key) is wrapped:  # it may have been removed by ``step``
            hooks[key] = original

    stack.callback(put_back)


def _described(hook: Callable[..., object]) -> str:
    name = getattr(hook, "__qualname__", type(hook).__qualname__).replace("<locals>.", "")
    code = getattr(hook, "__code__", None)
    return name if code is None else f"{name} ({code.co_filename}:{code.co_firstlineno})"
