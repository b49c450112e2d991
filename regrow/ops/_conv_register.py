"""Sparse convolutions as PyTorch knows them: schema, shapes, gradients and FLOPs.

They are ``torch.ops.regrow.conv``, ``conv_input_gradient`` and ``conv_value_gradient``; each one's
gradients are made of the others, to any order. Sizes are those of all dimensions, a layout is
handed over as its tensors, a back end by name, chosen before.
"""

# ruff: noqa: ANN401, ARG001 (torch gives the arguments)
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from regrow.ops import _conv_numba, _conv_unfold
from regrow.ops._backend import as_result
from regrow.ops._conv_plan import Sizes, Triple, output_size
from regrow.ops._dispatch import BY_NAME

LIBRARY = torch.library.Library("regrow", "FRAGMENT")
OPS = torch.ops.regrow
Maybe = Tensor | None
LAYOUT = "Tensor row_ptr, Tensor columns"
SIZES = "int[] kernel_size, int[] stride, int[] padding, int[] dilation, int groups, str backend"
LIBRARY.define(f"conv(Tensor values, Tensor x, Tensor? bias, {LAYOUT}, {SIZES}) -> Tensor")
LIBRARY.define(
    f"conv_input_gradient(Tensor values, Tensor dy, {LAYOUT}, SymInt[] size, {SIZES}) -> Tensor"
)
LIBRARY.define(f"conv_value_gradient(Tensor dy, Tensor x, {LAYOUT}, {SIZES}) -> Tensor")


class ConvBackend(NamedTuple):
    """One way to convolve. Tensors have three spatial dimensions; results are contiguous.

    Args:
        forward: (values, x, bias or None, row_ptr, columns, sizes) -> y.
        input_gradient: (values, dy, row_ptr, columns, sizes) -> dx.
        value_gradient: (dy, x, row_ptr, columns, sizes) -> (nnz,).
    """

    forward: Callable[[Tensor, Tensor, Maybe, Tensor, Tensor, Sizes], Tensor]
    input_gradient: Callable[[Tensor, Tensor, Tensor, Tensor, Sizes], Tensor]
    value_gradient: Callable[[Tensor, Tensor, Tensor, Tensor, Sizes], Tensor]


BACKENDS = {
    "numba": ConvBackend(
        _conv_numba.forward, _conv_numba.input_gradient, _conv_numba.value_gradient
    ),
    **{name: ConvBackend(*_conv_unfold.on(BY_NAME[name])) for name in ("torch", "reference")},
}


# -- what they do --------------------------------------------------------------------------------


def _triple(sizes: Sequence[int], missing: int) -> Triple:
    d, h, w = (*[missing] * (3 - len(sizes)), *sizes)
    return d, h, w


def _sizes(x_shape: Sequence[int], n_out: int, sizes: Sequence[Any]) -> Sizes:
    kernel, stride, padding, dilation, groups = sizes
    return Sizes(
        x_shape[0], x_shape[1], n_out, _triple(x_shape[2:], 1), _triple(kernel, 1),
        _triple(stride, 1), _triple(padding, 0), _triple(dilation, 1), groups,
    )  # fmt: skip


def _deep(x: Tensor) -> Tensor:
    """With three spatial dimensions."""
    return x.view(*x.shape[:2], *_triple(x.shape[2:], 1)) if x.dim() < 5 else x


def conv(
    values: Tensor, x: Tensor, bias: Maybe, row_ptr: Tensor, columns: Tensor, *others: Any
) -> Tensor:
    """What ``torch.ops.regrow.conv`` does, without what PyTorch does around it."""
    *sizes, backend = others
    of = _sizes(x.shape, row_ptr.shape[0] - 1, sizes)
    y = BACKENDS[backend].forward(values, _deep(x.contiguous()), bias, row_ptr, columns, of)
    return as_result(y.view(x.shape[0], of.n_out, *of.output[5 - x.dim() :]))


def _conv_input_gradient(
    values: Tensor, dy: Tensor, row_ptr: Tensor, columns: Tensor, size: list[int], *others: Any
) -> Tensor:
    *sizes, backend = others
    of = _sizes(size, dy.shape[1], sizes)
    dx = BACKENDS[backend].input_gradient(values, _deep(dy.contiguous()), row_ptr, columns, of)
    return dx.view(size)


def _conv_value_gradient(
    dy: Tensor, x: Tensor, row_ptr: Tensor, columns: Tensor, *others: Any
) -> Tensor:
    *sizes, backend = others
    of = _sizes(x.shape, dy.shape[1], sizes)
    pair = _deep(dy.contiguous()), _deep(x.contiguous())
    return BACKENDS[backend].value_gradient(*pair, row_ptr, columns, of)


for _name, _function in (
    ("conv", conv),
    ("conv_input_gradient", _conv_input_gradient),
    ("conv_value_gradient", _conv_value_gradient),
):
    LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")


# -- shapes --------------------------------------------------------------------------------------


def _output(x_shape: Sequence[int], sizes: Sequence[Any]) -> list[int]:
    per_axis = zip(x_shape[2:], *sizes[:4], strict=True)
    return [output_size(*one) for one in per_axis]


@torch.library.register_fake("regrow::conv", lib=LIBRARY)
def _conv_shape(
    values: Tensor, x: Tensor, bias: Maybe, row_ptr: Tensor, columns: Tensor, *others: Any
) -> Tensor:
    return x.new_empty((x.shape[0], row_ptr.shape[0] - 1, *_output(x.shape, others)))


@torch.library.register_fake("regrow::conv_input_gradient", lib=LIBRARY)
def _conv_input_gradient_shape(
    values: Tensor, dy: Tensor, row_ptr: Tensor, columns: Tensor, size: list[int], *_: Any
) -> Tensor:
    return dy.new_empty(size)


@torch.library.register_fake("regrow::conv_value_gradient", lib=LIBRARY)
def _conv_value_gradient_shape(
    dy: Tensor, x: Tensor, row_ptr: Tensor, columns: Tensor, *_: Any
) -> Tensor:
    return x.new_empty(columns.shape)


# -- gradients -----------------------------------------------------------------------------------


def _save_conv(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, x, _, row_ptr, columns, *ctx.others = inputs
    ctx.save_for_backward(values, x, row_ptr, columns)


def _conv_gradients(ctx: Any, dy: Tensor) -> tuple[Maybe, ...]:
    values, x, *layout = ctx.saved_tensors
    for_values, for_x, for_bias = ctx.needs_input_grad[:3]
    pixels = [0, *range(2, dy.dim())]
    return (
        OPS.conv_value_gradient(dy, x, *layout, *ctx.others) if for_values else None,
        OPS.conv_input_gradient(values, dy, *layout, x.shape, *ctx.others) if for_x else None,
        dy.sum(pixels) if for_bias else None,
        *[None] * 8,
    )


def _save_input_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, dy, row_ptr, columns, _, *ctx.others = inputs
    ctx.save_for_backward(values, dy, row_ptr, columns)


def _input_gradient_gradients(ctx: Any, g: Tensor) -> tuple[Maybe, ...]:
    values, dy, *layout = ctx.saved_tensors
    for_values, for_dy = ctx.needs_input_grad[:2]
    return (
        OPS.conv_value_gradient(dy, g, *layout, *ctx.others) if for_values else None,
        OPS.conv(values, g, None, *layout, *ctx.others) if for_dy else None,
        *[None] * 9,
    )


def _save_value_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, x, row_ptr, columns, *ctx.others = inputs
    ctx.save_for_backward(dy, x, row_ptr, columns)


def _value_gradient_gradients(ctx: Any, g: Tensor) -> tuple[Maybe, ...]:
    dy, x, *layout = ctx.saved_tensors
    for_dy, for_x = ctx.needs_input_grad[:2]
    return (
        OPS.conv(g, x, None, *layout, *ctx.others) if for_dy else None,
        OPS.conv_input_gradient(g, dy, *layout, x.shape, *ctx.others) if for_x else None,
        *[None] * 8,
    )


for _name, _backward, _setup in (
    ("conv", _conv_gradients, _save_conv),
    ("conv_input_gradient", _input_gradient_gradients, _save_input_gradient),
    ("conv_value_gradient", _value_gradient_gradients, _save_value_gradient),
):
    torch.library.register_autograd(
        f"regrow::{_name}", _backward, setup_context=_setup, lib=LIBRARY
    )


# -- FLOPs: a multiplication and an addition for each connection, sample and output pixel --------


@register_flop_formula(torch.ops.regrow.conv)
def _conv_flops(values: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(2 * values[0] * out_shape[0] * math.prod(out_shape[2:]))


@register_flop_formula(torch.ops.regrow.conv_input_gradient)
def _input_gradient_flops(values: Any, dy: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(2 * values[0] * dy[0] * math.prod(dy[2:]))


@register_flop_formula(torch.ops.regrow.conv_value_gradient)
def _value_gradient_flops(
    dy: Any, x: Any, row_ptr: Any, columns: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return int(2 * columns[0] * dy[0] * math.prod(dy[2:]))
