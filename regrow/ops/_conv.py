"""Sparse convolutions as a function of values, a layout and dense activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regrow._checks import check_count
from regrow.errors import SparsityError
from regrow.ops._autograd import nobody_listens, refuse_tangents
from regrow.ops._conv_plan import output_size
from regrow.ops._conv_register import OPS, conv
from regrow.ops._dispatch import asked, choose
from regrow.ops._functional import KINDS, _check_layout, _check_like, _check_values
from regrow.ops._layout import CSR
from regrow.ops._measured import fastest


def sparse_conv(
    values: Tensor,
    layout: CSR,
    x: Tensor,
    *,
    kernel_size: Sequence[int],
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    backend: str = "auto",
) -> Tensor:
    """A convolution whose weight is sparse, in one, two or three spatial dimensions.

    As torch.nn.functional.conv1d, conv2d and conv3d, with zeros as padding, on both sides. The
    weight ``(n_out, n_in // groups, *kernel_size)`` is given as the matrix that has one row for
    each output channel, and its connections only.

    Args:
        values: (nnz,) floating, in the order of the layout.
        layout: Where they belong, of shape ``(n_out, n_in // groups * prod(kernel_size))``.
        x: (B, n_in, spatial...) or (n_in, spatial...), of the same dtype and device; any strides.
        kernel_size: One size for each spatial dimension.
        bias: (n_out,) of the same dtype, or None.
        stride: Pixels between neighbouring outputs: one number, or one for each dimension.
        padding: Zeros on each side: one number, or one for each dimension.
        dilation: Pixels between neighbouring taps: one number, or one for each dimension.
        groups: Parts of the channels that see each other.
        backend: "auto", "numba", "torch" or "reference".

    Returns:
        (B, n_out, output...) or (n_out, output...), contiguous. Differentiable in ``values``, ``x``
        and ``bias``, to any order.

    Raises:
        TypeError: Another type or dtype.
        ValueError: Sizes that do not fit, another device, or an unknown back end.
        BackendUnavailableError: The back end cannot run; the message says why.

    Example:
        >>> from regrow.topology import Topology
        >>> layout = CSR.of(Topology(torch.tensor([0, 2]), (1, 3)))
        >>> x = torch.tensor([[[1.0, 2.0, 5.0, 7.0]]])
        >>> sparse_conv(torch.tensor([10.0, 1.0]), layout, x, kernel_size=(3,)).tolist()
        [[[15.0, 27.0]]]
    """
    sizes = (kernel_size, stride, padding, dilation, groups)
    straight = nobody_listens((values, x, bias)) and isinstance(layout, CSR)
    straight = straight and values is not None and x is not None and isinstance(backend, str)
    if straight and all(type(one) in (int, tuple) for one in sizes):
        # Checked once for each kind of call: at a batch of one that takes as long as the product.
        kind = (
            *(x.shape, x.dtype, x.device, values.shape, values.dtype, values.device),
            None if bias is None else (bias.shape, bias.dtype, bias.device),
            *(sizes, backend, asked(), torch.get_num_threads()),
        )
        known = layout.convolutions.get(kind)
        if known is None:
            known = _checked(values, layout, x, bias, sizes, backend)
            if len(layout.convolutions) == KINDS:
                layout.convolutions.clear()
            layout.convolutions[kind] = known
    else:
        known = _checked(values, layout, x, bias, sizes, backend)
    given, name = known
    batch = x if x.dim() == len(given[0]) + 2 else x.unsqueeze(0)
    # Without gradients nothing is asked of PyTorch's dispatcher, whose way there is as long again.
    call = conv if straight and not torch.is_grad_enabled() else OPS.conv
    y: Tensor = call(values, batch, bias, layout.row_ptr, layout.columns, *given, name)
    return y if batch is x else y.squeeze(0)


def _checked(
    values: Tensor, layout: CSR, x: Tensor, bias: Tensor | None, sizes: tuple[Any, ...],
    backend: str,
) -> tuple[tuple[Any, ...], str]:  # fmt: skip
    """The sizes as the operation takes them, and a back end, once all is found in order."""
    kernel_size, stride, padding, dilation, groups = sizes
    n_out, n_columns = _check_layout(layout).shape
    _check_values(values, layout)
    _check_like(x, "x", values)
    refuse_tangents(values, x, bias)
    kernel = _check_kernel(kernel_size)
    n = len(kernel)
    strides = _per_dimension(stride, "stride", n, least=1)
    paddings = _per_dimension(padding, "padding", n, least=0)
    dilations = _per_dimension(dilation, "dilation", n, least=1)
    groups = check_count(groups, "groups")
    if x.dim() not in (n + 1, n + 2):
        raise SparsityError(
            f"x must have {n + 1} or {n + 2} dimensions, channels and {n} spatial ones as "
            f"kernel_size has, got the shape {tuple(x.shape)}"
        )
    batch = x if x.dim() == n + 2 else x.unsqueeze(0)
    _check_channels(n_out, n_columns, batch.shape[1], math.prod(kernel), groups)
    _check_output(batch.shape[2:], kernel, strides, paddings, dilations)
    if bias is not None:
        _check_like(bias, "bias", values)
        if bias.shape != (n_out,):
            raise SparsityError(f"bias must have shape ({n_out},), got {tuple(bias.shape)}")
    name = _backend_name(backend, values.device, values.dtype)
    given = (kernel, strides, paddings, dilations, groups)
    if backend == "auto":
        name = _fastest(values, layout, batch, given) or name
    return given, name


def _fastest(values: Tensor, layout: CSR, x: Tensor, sizes: tuple[Any, ...]) -> str | None:
    """What "auto" stands for, asked once for each layout and size of the input."""
    if torch.compiler.is_compiling() or not nobody_listens((values, x)):
        return None
    n_pixels = x.shape[0] * math.prod(x.shape[2:])
    size = (n_pixels.bit_length(), torch.get_num_threads(), asked())
    if size not in layout.fastest:

        @torch.no_grad()
        def step(name: str) -> None:
            where = (layout.row_ptr, layout.columns)
            own, inputs = values.detach(), x.detach()
            y = OPS.conv(own, inputs, None, *where, *sizes, name)
            OPS.conv_input_gradient(own, y, *where, list(x.shape), *sizes, name)
            OPS.conv_value_gradient(y, inputs, *where, *sizes, name)

        _, strides, paddings, dilations, groups = sizes
        layout.fastest[size] = fastest(
            f"conv {strides} {paddings} {dilations} {groups} of {list(x.shape[2:])}",
            layout.shape,
            nnz=layout.nnz,
            n_batch=n_pixels,
            device=values.device,
            dtype=values.dtype,
            step=step,
        )
    return layout.fastest[size]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _backend_name(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """Chosen while torch.compile traces: it would stumble over the imports that this tries."""
    return choose(backend, device, dtype).name


def _check_kernel(kernel_size: Sequence[int]) -> list[int]:
    if isinstance(kernel_size, str) or not isinstance(kernel_size, Sequence):
        raise TypeError(
            f"kernel_size must be a sequence, one size for each dimension, got {kernel_size!r}"
        )
    if len(kernel_size) not in (1, 2, 3):
        raise SparsityError(f"kernel_size must have 1, 2 or 3 sizes, got {kernel_size!r}")
    return [check_count(size, "kernel_size") for size in kernel_size]


def _per_dimension(given: int | Sequence[int], argument: str, n: int, *, least: int) -> list[int]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        return [check_count(given, argument, least=least)] * n
    if len(given) != n:
        raise SparsityError(f"{argument} must be one number, or {n} as kernel_size, got {given!r}")
    return [check_count(one, argument, least=least) for one in given]


def _check_channels(n_out: int, n_columns: int, n_in: int, n_taps: int, groups: int) -> None:
    for argument, n in (("n_out", n_out), ("n_in", n_in)):
        if n % groups:
            raise SparsityError(f"groups must divide {argument}, {n}; got {groups}")
    if n_in // groups * n_taps != n_columns:
        raise SparsityError(
            f"x has {n_in} channels, which with groups={groups} and {n_taps} taps needs a layout "
            f"of {n_in // groups * n_taps} columns; it has {n_columns}"
        )


def _check_output(
    spatial: Sequence[int], kernel: list[int], stride: list[int], padding: list[int],
    dilation: list[int],
) -> None:  # fmt: skip
    per_axis = zip(spatial, kernel, stride, padding, dilation, strict=True)
    if min(output_size(*one) for one in per_axis) < 1:
        raise SparsityError(
            f"x has the spatial size {tuple(spatial)}, too small for kernel_size={tuple(kernel)} "
            f"with padding={tuple(padding)} and dilation={tuple(dilation)}"
        )
