"""The step of a sparse layer without detours: what PyTorch would do around the back end, by hand.

Through ``torch.ops`` a product passes the dispatcher twice, with Python on both sides, and so does
each gradient: at 99 % sparsity that is as long as the products take. Where nobody listens, no mode
that counts or traces and no transform, the back end is called straight from an autograd function.
"""

# ruff: noqa: ANN401, N803 (torch gives the contexts; shape letters)
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from regrow.ops._backend import Backend, Pattern, as_result, is_feature_major
from regrow.ops._dispatch import BY_NAME
from regrow.ops._register import product_gradients

PLAIN = (Tensor, torch.nn.Parameter)


def nobody_listens(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether no mode, transform, tracer or tensor subclass wants to see an operation."""
    return (
        not torch.compiler.is_compiling()
        and not is_in_torch_dispatch_mode()
        and not torch._C._are_functorch_transforms_active()
        and all(one is None or type(one) in PLAIN for one in tensors)
    )


class _Linear(torch.autograd.Function):
    """A product and its gradients.

    Where the back end put ``x`` in another memory order that is a second output, not a tensor that
    is only kept: so a gradient of the gradients finds its way from it to ``x``.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, x: Tensor, bias: Tensor | None, pattern: Pattern,
        backend: Backend,
    ) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
        ctx.pattern, ctx.backend, ctx.batch_first = pattern, backend, not is_feature_major(x)
        ctx.set_materialize_grads(False)
        if backend.product_and_order is None or not values.requires_grad:
            ctx.save_for_backward(values, x)
            return as_result(backend.product(values, x, bias, pattern))
        y, kept = backend.product_and_order(values, x, bias, pattern)
        ctx.save_for_backward(values, kept)
        return y if kept is x else (y, kept)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dkept: Tensor | None = None) -> tuple[Any, ...]:
        if dy is None:
            return None, dkept, None, None, None
        values, x = ctx.saved_tensors
        pattern, backend, wanted = ctx.pattern, ctx.backend, ctx.needs_input_grad
        if torch.is_grad_enabled() or not nobody_listens((values, x, dy)):
            layout = list(pattern[:-1])
            dvalues, dx, dbias = product_gradients(values, x, layout, backend.name, dy, wanted)
        else:
            dvalues, dx = backend.gradients(
                values, dy, x, pattern, wanted[:2], batch_first=ctx.batch_first
            )
            dbias = dy.sum(0) if wanted[2] else None
        if dkept is not None and dx is not None:
            dx = dx + dkept
        return dvalues, dx, dbias, None, None


def linear(
    values: Tensor, x_BI: Tensor, bias: Tensor | None, pattern: Pattern, name: str
) -> Tensor:
    """``x @ W.T + bias``, (B, n_out), on the back end of that name; differentiable.

    For calls that nobody listens to. Where ``x`` needs a gradient ``pattern`` has the column form.
    """
    backend = BY_NAME[name]
    if not torch.is_grad_enabled():
        return backend.product(values, x_BI, bias, pattern)
    found = _Linear.apply(values, x_BI, bias, pattern, backend)
    y: Tensor = found[0] if isinstance(found, tuple) else found
    return y
