"""The back end "torch": torch.sparse matrices, which on CPUs run MKL's kernels."""

# ruff: noqa: N803, N806 (shape letters)

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from regrow.ops._backend import Backend, Pattern

DTYPES = (torch.float32, torch.float64)


def unsupported(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Reasons why it cannot run."""
    reasons = []
    if device.type != "cpu":
        reasons.append(f"it is used on CPUs, the tensors are on {device}")
    elif not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        reasons.append("this build of torch has no MKL")
    if dtype not in DTYPES:
        reasons.append(f"it takes float32 and float64, got {dtype}")
    return reasons


@functools.cache
def _announced() -> None:
    """Let torch say, once and unheard, that its sparse matrices are in beta state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        _matrix(
            torch.zeros(2, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), torch.zeros(0), 1
        )


def _matrix(starts: Tensor, indices: Tensor, values: Tensor, n_columns: int) -> Tensor:
    shape = (starts.shape[0] - 1, n_columns)
    return torch.sparse_csr_tensor(
        starts.to(torch.int32), indices, values, shape, check_invariants=False
    )


def _multiply(starts: Tensor, indices: Tensor, values: Tensor, x_BI: Tensor) -> Tensor:
    _announced()
    n_batch, n_in = x_BI.shape
    if not (values.numel() and n_batch):
        return x_BI.new_zeros((starts.shape[0] - 1, n_batch)).t()
    matrix = _matrix(starts, indices, values.contiguous(), n_in)
    return (matrix @ x_BI.t().contiguous()).t()


def product(values: Tensor, x_BI: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    """See ``Backend.product``."""
    y_BO = _multiply(pattern.row_ptr, pattern.columns, values, x_BI)
    return y_BO if bias is None else y_BO.add_(bias)


def transposed_product(values: Tensor, dy_BO: Tensor, pattern: Pattern) -> Tensor:
    """See ``Backend.transposed_product``."""
    if pattern.col_ptr is None or pattern.rows is None or pattern.order is None:
        raise ValueError("the column form is missing")
    return _multiply(pattern.col_ptr, pattern.rows, values[pattern.order], dy_BO)


def sampled_product(dy_BO: Tensor, x_BI: Tensor, pattern: Pattern) -> Tensor:
    """See ``Backend.sampled_product``."""
    _announced()
    zeros = x_BI.new_zeros(pattern.columns.shape)
    if not (zeros.numel() and x_BI.shape[0]):
        return zeros
    matrix = _matrix(pattern.row_ptr, pattern.columns, zeros, pattern.n_in)
    dy_OB = dy_BO.t().contiguous()
    entries: Tensor = torch.sparse.sampled_addmm(matrix, dy_OB, x_BI.contiguous(), beta=0.0)
    return entries.values()


TORCH = Backend(
    name="torch",
    product=product,
    transposed_product=transposed_product,
    sampled_product=sampled_product,
    unsupported=unsupported,
    tolerances={torch.float32: (1e-4, 1e-4), torch.float64: (1e-11, 1e-11)},
    # MKL may sum in another order with another number of threads.
    deterministic=False,
)
