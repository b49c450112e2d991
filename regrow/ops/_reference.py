"""The back end "reference": plain PyTorch, on every device and for every floating dtype.

Legend: B batch, I inputs, O outputs. Other back ends are compared with float64 products of dense
matrices; this one is for machines that have nothing better, and to read.
"""

# ruff: noqa: N803, N806 (shape letters)

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from regrow.ops._backend import Backend, Pattern

AT_ONCE = 2**24
"""Products held at a time (connections times batch)."""
NARROW = (torch.float16, torch.bfloat16)


def unsupported(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Reasons why it cannot run."""
    del device  # all of them
    return [] if dtype.is_floating_point else [f"it takes floating dtypes, got {dtype}"]


def _rows(pattern: Pattern) -> Tensor:
    numbers = torch.arange(pattern.n_out, device=pattern.row_ptr.device)
    return torch.repeat_interleave(numbers, pattern.row_ptr.diff())


def _chunks(n: int, n_batch: int) -> Iterator[slice]:
    step = max(1, AT_ONCE // max(1, n_batch))
    return (slice(at, at + step) for at in range(0, n, step))


def _sums(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in NARROW else dtype


def _multiply(
    values: Tensor, x_BI: Tensor, sources: Tensor, targets: Tensor, start_OB: Tensor
) -> Tensor:
    """Add values[k] * x[sources[k]] to row targets[k] of ``start_OB``."""
    x_IB = x_BI.t().to(start_OB.dtype)
    for some in _chunks(values.numel(), x_BI.shape[0]):
        terms = x_IB[sources[some]] * values[some, None].to(start_OB.dtype)
        start_OB.index_add_(0, targets[some], terms)
    return start_OB.to(x_BI.dtype).t()


def product(values: Tensor, x_BI: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    """See ``Backend.product``."""
    y_OB = x_BI.new_zeros((pattern.n_out, x_BI.shape[0]), dtype=_sums(x_BI.dtype))
    if bias is not None:
        y_OB += bias[:, None]
    return _multiply(values, x_BI, pattern.columns, _rows(pattern), y_OB)


def transposed_product(values: Tensor, dy_BO: Tensor, pattern: Pattern) -> Tensor:
    """See ``Backend.transposed_product``."""
    dx_IB = dy_BO.new_zeros((pattern.n_in, dy_BO.shape[0]), dtype=_sums(dy_BO.dtype))
    return _multiply(values, dy_BO, _rows(pattern), pattern.columns, dx_IB)


def sampled_product(dy_BO: Tensor, x_BI: Tensor, pattern: Pattern) -> Tensor:
    """See ``Backend.sampled_product``."""
    sums, rows, columns = _sums(x_BI.dtype), _rows(pattern), pattern.columns
    dy_OB, x_IB = dy_BO.t().to(sums), x_BI.t().to(sums)
    out = x_BI.new_empty(columns.shape, dtype=sums)
    for some in _chunks(columns.numel(), x_BI.shape[0]):
        out[some] = (dy_OB[rows[some]] * x_IB[columns[some]]).sum(1)
    return out.to(x_BI.dtype)


REFERENCE = Backend(
    name="reference",
    product=product,
    transposed_product=transposed_product,
    sampled_product=sampled_product,
    unsupported=unsupported,
    tolerances={
        torch.float32: (1e-4, 1e-4),
        torch.float64: (1e-11, 1e-11),
        torch.bfloat16: (1.6e-2, 2e-2),
        torch.float16: (2e-3, 4e-3),
    },
    # Outside CPUs the order of index_add's sums is not fixed.
    deterministic=False,
)
