"""Recorder: inputs and output gradients of the passes whose step rewires by gradient."""

# ruff: noqa: ANN401 (inputs may be sparse matrices; torch gives contexts)
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

_KEYS = itertools.count()
_RECORDERS: weakref.WeakValueDictionary[int, Recorder] = weakref.WeakValueDictionary()
"""By key: all that a compiled graph can hold of a recorder is a number."""


@final
class Recorder:
    """Keeps (input, output gradient) of each backward pass in which values get a gradient.

    Of an output that is a view (leading dimensions, a batch of one) the gradient of what it views.

    The gradient of an input alone, as for adversarial examples, leaves nothing.
    """

    def __init__(self) -> None:
        self.is_on = False
        self.kept: list[tuple[Any, Tensor]] = []
        self.key = next(_KEYS)
        self._arrived: list[tuple[Any, Tensor]] = []
        self._owner: weakref.ref[object] | None = None
        self._values: weakref.ref[nn.Parameter] | None = None
        _RECORDERS[self.key] = self

    def start(self, owner: object, values: nn.Parameter) -> None:
        """Begin anew.

        Args:
            owner: Who reads what is kept; once it is gone nothing is kept any more.
            values: Whose ``.grad`` the passes accumulate into.
        """
        self.stop()
        self._owner, self._values, self.is_on = weakref.ref(owner), weakref.ref(values), True

    def stop(self) -> None:
        """Keep nothing any more, and let go of what was kept."""
        self.is_on, self._owner, self._values = False, None, None
        self.kept, self._arrived = [], []

    def observed(self, x: Any, values: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """``compute(values)``, watched.

        Args:
            x: Its input, a tensor or a sparse matrix.
            values: Of the layer, perhaps in another dtype.
            compute: The forward pass.
        """
        if not (values.requires_grad and torch.is_grad_enabled()):
            return compute(values)
        if torch.compiler.is_compiling():
            # A hook would be traced once; an operation is called in every pass.
            own = torch.ops.regrow.watch_values(values, self.key)
            watched: Tensor = torch.ops.regrow.watch_output(compute(own), x, self.key)
            return watched
        if not self.begins():
            return compute(values)
        own = values.view_as(values)
        own.register_hook(lambda _: self.values_arrived())
        y = compute(own)
        x = x.detach() if isinstance(x, Tensor) else x
        # A view forgets its hook where what comes behind writes to it in place; its base does not.
        whole = y if y._base is None else y._base
        whole.register_hook(lambda dy: self.output_arrived(x, dy))
        return y

    def begins(self) -> bool:
        """A forward pass begins; whether somebody will read what is kept of it."""
        values = None if self._values is None else self._values()
        if values is None or self._owner is None or self._owner() is None:
            self.stop()
            return False
        # (Not in a recomputation, as activation checkpointing has them.)
        in_backward = torch._C._current_graph_task_id() != -1
        if self.kept and not in_backward and (values.grad is None or not bool(values.grad.any())):
            # The gradient was zeroed since: what was kept belongs to a step that never came.
            self.kept.clear()
        return True

    def output_arrived(self, x: Any, dy: Tensor) -> None:
        """The gradient of the output is known, that of the values not yet."""
        self._arrived.append((x, dy.detach()))

    def values_arrived(self) -> None:
        """The gradient of the values is known: what arrived last is to be kept."""
        if self._arrived and self.is_on:
            self.kept.append(self._arrived.pop())


_LIBRARY = torch.library.Library("regrow", "FRAGMENT")
_LIBRARY.define("watch_values(Tensor values, int key) -> Tensor")
_LIBRARY.define("watch_output(Tensor y, Tensor x, int key) -> Tensor")
_LIBRARY.define("keep_values(Tensor grad, int key) -> Tensor")
_LIBRARY.define("keep_output(Tensor dy, Tensor x, int key) -> Tensor")


def _watch_values(values: Tensor, key: int) -> Tensor:
    if (recorder := _RECORDERS.get(key)) is not None:
        recorder.begins()
    return values.clone()


def _watch_output(y: Tensor, x: Tensor, key: int) -> Tensor:
    del x, key
    return y.clone()


def _keep_values(grad: Tensor, key: int) -> Tensor:
    if (recorder := _RECORDERS.get(key)) is not None:
        recorder.values_arrived()
    return grad.clone()


def _keep_output(dy: Tensor, x: Tensor, key: int) -> Tensor:
    if (recorder := _RECORDERS.get(key)) is not None and recorder.is_on:
        # Copies: a compiled graph may write to its own tensors once they were read.
        recorder.output_arrived(x.detach().clone(), dy.clone())
    return dy.clone()


for _name, _function in (
    ("watch_values", _watch_values),
    ("watch_output", _watch_output),
    ("keep_values", _keep_values),
    ("keep_output", _keep_output),
):
    _LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(
        f"regrow::{_name}", lambda first, *_: torch.empty_like(first), lib=_LIBRARY
    )


def _save_key(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    ctx.key = inputs[-1]
    ctx.save_for_backward(*inputs[1:-1])


def _values_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return torch.ops.regrow.keep_values(grad, ctx.key), None


def _output_gradient(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
    return torch.ops.regrow.keep_output(dy, ctx.saved_tensors[0], ctx.key), None, None


for _name, _backward in (("watch_values", _values_gradient), ("watch_output", _output_gradient)):
    torch.library.register_autograd(
        f"regrow::{_name}", _backward, setup_context=_save_key, lib=_LIBRARY
    )
