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
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from regrow.ops._backend import Backend, Pattern, as_result, is_feature_major
from regrow.ops._dispatch import BY_NAME
from regrow.ops._register import product_gradients

PLAIN = (Tensor, torch.nn.Parameter)


def nobody_listens(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether no mode, transform, tracer or tensor subclass wants to see an operation."""
    if (
        torch.compiler.is_compiling()
        or is_in_torch_dispatch_mode()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
    ):
        return False
    # (A loop: between other work each function that is called costs some microseconds.)
    for one in tensors:  # noqa: SIM110
        if one is not None and type(one) not in PLAIN:
            return False
    return True


def refuse_tangents(*inputs: Any) -> None:
    """Raise where forward-mode differentiation asks for what these operations cannot give it.

    Raises:
        NotImplementedError: An input has a tangent, which would be lost without a word.
    """
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    tensors = [one for one in inputs if isinstance(one, Tensor) and one.layout is torch.strided]
    if any(forward_ad.unpack_dual(one).tangent is not None for one in tensors):
        raise NotImplementedError(
            "truly sparse operations have no forward-mode derivative (jvp, jacfwd): use reverse "
            "mode, or regrow.nn.densify_(model)"
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
        # Each gradient needs the other one only, so that what is frozen may be changed.
        own = values if x.requires_grad else None
        if backend.product_and_order is None or not values.requires_grad:
            ctx.save_for_backward(own, x if values.requires_grad else None)
            return as_result(backend.product(values, x, bias, pattern))
        y, kept = backend.product_and_order(values, x, bias, pattern)
        ctx.save_for_backward(own, kept)
        return y if kept is x else (y, kept)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dkept: Tensor | None = None) -> tuple[Any, ...]:
        if dy is None:
            return None, dkept, None, None, None
        values, x = ctx.saved_tensors
        pattern, backend, wanted = ctx.pattern, ctx.backend, ctx.needs_input_grad
        if values is not None and values.shape != pattern.columns.shape:
            raise RuntimeError(
                f"a layer was rewired between forward and backward pass: it has {values.numel()} "
                f"values now, and had {pattern.columns.numel()}"
            )
        if torch.is_grad_enabled() or not nobody_listens((values, x, dy)) or _is_batched(dy):
            layout = list(pattern[:-1])
            dvalues, dx, dbias = product_gradients(
                values, x, layout, backend.name, dy, wanted, n_in=pattern.n_in,
                batch_first=ctx.batch_first,
            )  # fmt: skip
        else:
            dvalues, dx = backend.gradients(
                values, dy, x, pattern, wanted[:2], batch_first=ctx.batch_first
            )
            dbias = dy.sum(0) if wanted[2] else None
        if dkept is not None and dx is not None:
            dx = dx + dkept
        return dvalues, dx, dbias, None, None


def _is_batched(dy: Tensor) -> bool:
    """Whether it stands for many (``is_grads_batched``), which nothing else tells."""
    return bool(torch._C._functorch.is_legacy_batchedtensor(dy))


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
