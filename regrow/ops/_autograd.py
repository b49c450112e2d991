"""The step of a sparse layer without detours: what PyTorch would do around the back end, by hand.

Through ``torch.ops`` a product passes the dispatcher twice, with Python on both sides, and so does
each gradient: at 99 % sparsity that is as long as the products take. Where nobody listens, no mode
that counts or traces and no transform, the back end is called straight from an autograd function.
"""

# ruff: noqa: ANN401, ARG004, FBT001, N803, N806 (torch gives the contexts; shape letters)
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from regrow.ops._backend import Backend, Pattern, as_result, is_feature_major
from regrow.ops._dispatch import BY_NAME
from regrow.ops._register import OPS, product_gradients

PLAIN = (Tensor, torch.nn.Parameter)


def nobody_listens(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether no mode, transform, tracer or tensor subclass wants to see an operation."""
    return (
        not torch.compiler.is_compiling()
        and not is_in_torch_dispatch_mode()
        and not torch._C._are_functorch_transforms_active()
        and all(one is None or type(one) in PLAIN for one in tensors)
    )


class _Packed(torch.autograd.Function):
    """Another memory order, made once for the product and for the gradient of its values."""

    @staticmethod
    def forward(ctx: Any, x_BI: Tensor, packed: Tensor) -> Tensor:
        return packed

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor, None]:
        return dx, None


class _Linear(torch.autograd.Function):
    """``OPS.product`` and its gradients."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, x: Tensor, bias: Tensor | None, pattern: Pattern,
        backend: Backend, batch_first: bool,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(values, x)
        ctx.pattern, ctx.backend, ctx.batch_first = pattern, backend, batch_first
        return as_result(backend.product(values, x, bias, pattern))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        values, x = ctx.saved_tensors
        pattern, backend, wanted = ctx.pattern, ctx.backend, ctx.needs_input_grad
        if torch.is_grad_enabled() or not nobody_listens((values, x, dy)):
            layout = list(pattern[:-1])
            grads = product_gradients(values, x, layout, backend.name, dy, wanted)
        else:
            grads = (
                *backend.gradients(values, dy, x, pattern, wanted[:2], batch_first=ctx.batch_first),
                dy.sum(0) if wanted[2] else None,
            )
        return *grads, None, None, None


def linear(
    values: Tensor, x_BI: Tensor, bias: Tensor | None, pattern: Pattern, name: str
) -> Tensor:
    """``x @ W.T + bias``, (B, n_out), on the back end of that name; differentiable.

    Where ``x`` needs a gradient ``pattern`` has the column form.
    """
    if nobody_listens((values, x_BI, bias)):
        backend = BY_NAME[name]
        if not torch.is_grad_enabled():
            return backend.product(values, x_BI, bias, pattern)
        batch_first = not is_feature_major(x_BI)
        if batch_first and values.requires_grad and backend.packed is not None:
            before = x_BI.detach()
            again = backend.packed(before)
            if again is not before:
                x_BI = _Packed.apply(x_BI, again) if x_BI.requires_grad else again
        found: Tensor = _Linear.apply(values, x_BI, bias, pattern, backend, batch_first)
        return found
    y_BO: Tensor = OPS.product(values, x_BI, bias, *pattern[:-1], name)
    return y_BO
