"""The operations as PyTorch knows them: schema, shapes, gradients and FLOPs.

They are ``torch.ops.regrow.product``, ``transposed_product`` and ``sampled_product``; each one's
gradients are made of the others, to any order. ``gradients`` is the usual backward pass of a
product, whose own gradient nobody asks for: both gradients at once, where that is faster. A layout
is handed over as its tensors, a back end by name; "auto" is chosen when the operation runs.

Legend: B batch, I inputs, O outputs.
"""

# ruff: noqa: ANN401, ARG001, FBT001 (torch gives the arguments)
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from regrow.ops._backend import Pattern, as_result, is_feature_major
from regrow.ops._dispatch import choose
from regrow.ops._layout import column_form

LIBRARY = torch.library.Library("regrow", "FRAGMENT")
COLUMN_FORM = "Tensor? col_ptr, Tensor? rows, Tensor? order"
LIBRARY.define(
    "product(Tensor values, Tensor x, Tensor? bias, Tensor row_ptr, Tensor columns, "
    f"{COLUMN_FORM}, str backend) -> Tensor"
)
LIBRARY.define(
    "transposed_product(Tensor values, Tensor dy, Tensor row_ptr, Tensor columns, "
    f"{COLUMN_FORM}, SymInt n_in, str backend) -> Tensor"
)
LIBRARY.define(
    "sampled_product(Tensor dy, Tensor x, Tensor row_ptr, Tensor columns, "
    f"{COLUMN_FORM}, str backend) -> Tensor"
)
LIBRARY.define(
    "gradients(Tensor values, Tensor dy, Tensor x, Tensor row_ptr, Tensor columns, "
    f"{COLUMN_FORM}, bool for_values, bool for_x, str backend) -> (Tensor, Tensor)"
)

OPS = torch.ops.regrow
Maybe = Tensor | None


# -- what they do --------------------------------------------------------------------------------


def _product(
    values: Tensor, x: Tensor, bias: Maybe, row_ptr: Tensor, columns: Tensor,
    col_ptr: Maybe, rows: Maybe, order: Maybe, backend: str,
) -> Tensor:  # fmt: skip
    pattern = Pattern(row_ptr, columns, col_ptr, rows, order, x.shape[1])
    return as_result(choose(backend, x.device, x.dtype).product(values, x, bias, pattern))


def _transposed_product(
    values: Tensor, dy: Tensor, row_ptr: Tensor, columns: Tensor,
    col_ptr: Maybe, rows: Maybe, order: Maybe, n_in: int, backend: str,
) -> Tensor:  # fmt: skip
    if order is None:
        col_ptr, rows, order = column_form(row_ptr, columns, n_in)
    pattern = Pattern(row_ptr, columns, col_ptr, rows, order, n_in)
    return choose(backend, dy.device, dy.dtype).transposed_product(values, dy, pattern)


def _sampled_product(
    dy: Tensor, x: Tensor, row_ptr: Tensor, columns: Tensor,
    col_ptr: Maybe, rows: Maybe, order: Maybe, backend: str,
) -> Tensor:  # fmt: skip
    pattern = Pattern(row_ptr, columns, col_ptr, rows, order, x.shape[1])
    return choose(backend, x.device, x.dtype).sampled_product(dy, x, pattern)


def _gradients(
    values: Tensor, dy: Tensor, x: Tensor, row_ptr: Tensor, columns: Tensor,
    col_ptr: Maybe, rows: Maybe, order: Maybe, for_values: bool, for_x: bool, backend: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if for_x and order is None:
        col_ptr, rows, order = column_form(row_ptr, columns, x.shape[1])
    pattern = Pattern(row_ptr, columns, col_ptr, rows, order, x.shape[1])
    dvalues, dx = choose(backend, x.device, x.dtype).gradients(
        values, dy, x, pattern, (for_values, for_x), batch_first=not is_feature_major(x)
    )
    return (
        values.new_empty(0) if dvalues is None else dvalues,
        x.new_empty((0, 0)) if dx is None else dx,
    )


for _name, _function in (
    ("product", _product),
    ("transposed_product", _transposed_product),
    ("sampled_product", _sampled_product),
    ("gradients", _gradients),
):
    LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")


# -- shapes --------------------------------------------------------------------------------------


@torch.library.register_fake("regrow::product", lib=LIBRARY)
def _product_shape(values: Tensor, x: Tensor, bias: Maybe, row_ptr: Tensor, *_: Any) -> Tensor:
    return x.new_empty((row_ptr.shape[0] - 1, x.shape[0])).t()


@torch.library.register_fake("regrow::transposed_product", lib=LIBRARY)
def _transposed_product_shape(values: Tensor, dy: Tensor, *others: Any) -> Tensor:
    n_in = others[-2]
    return dy.new_empty((n_in, dy.shape[0])).t()


@torch.library.register_fake("regrow::sampled_product", lib=LIBRARY)
def _sampled_product_shape(
    dy: Tensor, x: Tensor, row_ptr: Tensor, columns: Tensor, *_: Any
) -> Tensor:
    return x.new_empty(columns.shape)


@torch.library.register_fake("regrow::gradients", lib=LIBRARY)
def _gradients_shape(
    values: Tensor, dy: Tensor, x: Tensor, row_ptr: Tensor, columns: Tensor, *others: Any
) -> tuple[Tensor, Tensor]:
    *_, for_values, for_x, _ = others
    dvalues = values.new_empty(columns.shape if for_values else 0)
    if not for_x:
        return dvalues, x.new_empty((0, 0))
    if is_feature_major(x):
        return dvalues, x.new_empty((x.shape[1], x.shape[0])).t()
    return dvalues, x.new_empty(x.shape)


# -- gradients -----------------------------------------------------------------------------------


def _save_product(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, x, bias, *layout, backend = inputs
    ctx.save_for_backward(values, x, *layout)
    ctx.has_bias, ctx.backend = bias is not None, backend


def _product_gradients(ctx: Any, dy: Tensor) -> tuple[Maybe, ...]:
    values, x, *layout = ctx.saved_tensors
    found = product_gradients(
        values, x, layout, ctx.backend, dy, ctx.needs_input_grad, n_in=x.shape[1],
        batch_first=not is_feature_major(x),
    )  # fmt: skip
    return *found, *[None] * 6


def product_gradients(
    values: Maybe, x: Maybe, layout: list[Maybe], backend: str, dy: Tensor, wanted: list[bool],
    *, n_in: int, batch_first: bool,
) -> tuple[Maybe, Maybe, Maybe]:  # fmt: skip
    """Those of values, x and bias, as far as they are wanted; differentiable where grad is on.

    That of values needs ``x``, that of ``x`` the values.
    """
    for_values, for_x, for_bias = wanted[:3]
    dvalues = dx = None
    if for_values and for_x and not torch.is_grad_enabled():
        dvalues, dx = OPS.gradients(values, dy, x, *layout, for_values, for_x, backend)
    elif for_x:
        dx = OPS.transposed_product(values, dy, *layout, n_in, backend)
        dx = dx.contiguous() if batch_first and not torch.is_grad_enabled() else dx
    if for_values and dvalues is None:
        dvalues = OPS.sampled_product(dy, x, *layout, backend)
    return dvalues, dx, dy.sum(0) if for_bias else None


def _save_transposed_product(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, dy, *layout, _, backend = inputs
    ctx.save_for_backward(values, dy, *layout)
    ctx.backend = backend


def _transposed_product_gradients(ctx: Any, g: Tensor) -> tuple[Maybe, ...]:
    values, dy, *layout = ctx.saved_tensors
    backend = ctx.backend
    for_values, for_dy = ctx.needs_input_grad[:2]
    return (
        OPS.sampled_product(dy, g, *layout, backend) if for_values else None,
        OPS.product(values, g, None, *layout, backend) if for_dy else None,
        *[None] * 7,
    )


def _save_sampled_product(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, x, *layout, backend = inputs
    ctx.save_for_backward(dy, x, *layout)
    ctx.backend = backend


def _sampled_product_gradients(ctx: Any, g: Tensor) -> tuple[Maybe, ...]:
    dy, x, *layout = ctx.saved_tensors
    for_dy, for_x = ctx.needs_input_grad[:2]
    n_in, backend = x.shape[1], ctx.backend
    return (
        OPS.product(g, x, None, *layout, backend) if for_dy else None,
        OPS.transposed_product(g, dy, *layout, n_in, backend) if for_x else None,
        *[None] * 6,
    )


for _name, _backward, _setup in (
    ("product", _product_gradients, _save_product),
    ("transposed_product", _transposed_product_gradients, _save_transposed_product),
    ("sampled_product", _sampled_product_gradients, _save_sampled_product),
):
    torch.library.register_autograd(
        f"regrow::{_name}", _backward, setup_context=_setup, lib=LIBRARY
    )


# -- FLOPs: a multiplication and an addition for each connection and sample ----------------------


@register_flop_formula(torch.ops.regrow.product)
def _product_flops(values: Any, x: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(2 * values[0] * x[0])


@register_flop_formula(torch.ops.regrow.transposed_product)
def _transposed_flops(values: Any, dy: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(2 * values[0] * dy[0])


@register_flop_formula(torch.ops.regrow.sampled_product)
def _sampled_flops(
    dy: Any, x: Any, row_ptr: Any, columns: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return int(2 * columns[0] * x[0])


@register_flop_formula(torch.ops.regrow.gradients)
def _gradients_flops(
    values: Any, dy: Any, x: Any, row_ptr: Any, columns: Any, *others: Any,
    out_shape: Any = None, **__: Any,
) -> int:  # fmt: skip
    *_, for_values, for_x, _ = others
    return int(2 * columns[0] * x[0] * (for_values + for_x))
