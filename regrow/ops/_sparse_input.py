"""A sparse layer whose input is sparse too: text, one-hot features, graphs. It is never made dense.

Each entry (b, i) of the input adds its multiple of column i of the weight to sample b. There is no
gradient of the input, which would be dense.

Legend: B batch, I inputs, O outputs.
"""

# ruff: noqa: ANN401, ARG001, N806 (anything may come; torch gives the arguments; shapes)
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from regrow.errors import SparsityError
from regrow.ops import _numba, _threads
from regrow.ops._layout import column_form
from regrow.ops._register import LIBRARY, OPS

AT_ONCE = 2**22
"""Products held at a time by the plain form."""
COMPILED = (torch.float32, torch.float64)
INPUT = "Tensor x_ptr, Tensor x_columns, Tensor x"
COLUMNS = "Tensor col_ptr, Tensor rows, Tensor order"
LIBRARY.define(
    f"sparse_input_product(Tensor values, {INPUT}, {COLUMNS}, SymInt n_out, str backend) -> Tensor"
)
LIBRARY.define(f"sparse_input_sampled(Tensor dy, {INPUT}, {COLUMNS}, str backend) -> Tensor")


class SparseInput(NamedTuple):
    """Compressed rows of (B, I)."""

    ptr: Tensor
    columns: Tensor
    data: Tensor
    shape: tuple[int, int]


def is_sparse_input(x: Any) -> bool:
    """Whether ``x`` is a matrix of scipy, or a sparse tensor."""
    if isinstance(x, Tensor):
        return x.layout != torch.strided
    return all(hasattr(x, name) for name in ("indptr", "indices", "data", "shape", "tocsr"))


def read(x: Any) -> SparseInput:
    """The entries of a matrix in compressed rows.

    Args:
        x: (B, I), of scipy or of torch.

    Raises:
        TypeError: It is not in compressed rows.
        SparsityError: It is not of two dimensions, needs a gradient, or has columns outside.
    """
    if isinstance(x, Tensor):
        if x.layout != torch.sparse_csr:
            raise TypeError(
                f"x must be dense or torch.sparse_csr, got {x.layout}; x.to_sparse_csr()"
            )
        if x.requires_grad:
            raise SparsityError("a sparse x gets no gradient, which would be dense; x.detach()")
        ptr, columns, data = x.crow_indices(), x.col_indices(), x.values()
    else:
        if getattr(x, "format", "csr") != "csr":
            raise TypeError(f"x must be in compressed rows, got the format {x.format!r}; x.tocsr()")
        ptr, columns, data = (_tensor(part) for part in (x.indptr, x.indices, x.data))
    if len(x.shape) != 2:
        raise SparsityError(f"a sparse x has two dimensions, got the shape {tuple(x.shape)}")
    shape = int(x.shape[0]), int(x.shape[1])
    if columns.numel() and not 0 <= int(columns.min()) <= int(columns.max()) < shape[1]:
        raise SparsityError(f"the columns of x must lie in [0, {shape[1]})")
    return SparseInput(ptr.to(torch.int64), columns.to(torch.int32), data, shape)


def _tensor(array: np.ndarray) -> Tensor:
    # torch warns of memory that it could, and here does not, write to.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _product(
    values: Tensor, x_ptr: Tensor, x_columns: Tensor, x: Tensor,
    col_ptr: Tensor, rows: Tensor, order: Tensor, n_out: int, backend: str,
) -> Tensor:  # fmt: skip
    y_BO = torch.zeros((len(x_ptr) - 1, n_out), dtype=values.dtype, device=values.device)
    if _is_compiled(backend, values):
        arrays = _arrays(x_ptr, x_columns, x, col_ptr, rows, order, values)

        def samples(first: int, last: int) -> None:
            _numba.sample_kernels().product(*arrays, y_BO.numpy(), first, last)

        n = _threads.n_parts(_n_flops(x_columns, rows, col_ptr))
        _threads.run(samples, _threads.equal_work(arrays[0], n))
        return y_BO
    for entries, k in _pairs(x_ptr, x_columns, col_ptr):
        at = _samples(x_ptr)[entries] * n_out + rows[k]
        y_BO.view(-1).index_add_(0, at, x[entries] * values[order[k]])
    return y_BO


def _sampled(
    dy: Tensor, x_ptr: Tensor, x_columns: Tensor, x: Tensor,
    col_ptr: Tensor, rows: Tensor, order: Tensor, backend: str,
) -> Tensor:  # fmt: skip
    out = torch.zeros(rows.shape, dtype=dy.dtype, device=dy.device)
    if _is_compiled(backend, dy):
        n_in = len(col_ptr) - 1
        by_column = column_form(x_ptr, x_columns, n_in)
        arrays = _arrays(*by_column, x, col_ptr, rows, order)
        grad = dy.detach().contiguous().numpy()

        def columns(first: int, last: int) -> None:
            _numba.sample_kernels().sampled(*arrays, grad, out.numpy(), first, last)

        n = _threads.n_parts(_n_flops(x_columns, rows, col_ptr))
        _threads.run(columns, _threads.equal_work(arrays[0], n))
        return out
    for entries, k in _pairs(x_ptr, x_columns, col_ptr):
        terms = x[entries] * dy[_samples(x_ptr)[entries], rows[k]]
        out.index_add_(0, order[k], terms)
    return out


def _is_compiled(backend: str, like: Tensor) -> bool:
    # Only numba has kernels of its own for this; the plain form is for all the others.
    wanted = backend in ("auto", "numba") and like.dtype in COMPILED
    return wanted and like.device.type == "cpu" and not _numba.missing()


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _n_flops(x_columns: Tensor, rows: Tensor, col_ptr: Tensor) -> int:
    """Twice the products there are where columns are used alike."""
    return 2 * x_columns.numel() * rows.numel() // max(1, len(col_ptr) - 1)


def _samples(x_ptr: Tensor) -> Tensor:
    numbers = torch.arange(len(x_ptr) - 1, device=x_ptr.device)
    return torch.repeat_interleave(numbers, x_ptr.diff())


def _pairs(x_ptr: Tensor, x_columns: Tensor, col_ptr: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(entries of x, connections of their columns), as many at a time as memory is to hold."""
    counts = col_ptr.diff()[x_columns.long()]
    ends = counts.cumsum(0)
    n, done = len(counts), 0
    while done < n:
        before = int(ends[done - 1]) if done else 0
        upto = int(torch.searchsorted(ends, before + AT_ONCE, right=True))
        upto = min(n, max(done + 1, upto))
        entries = torch.arange(done, upto, device=counts.device)
        entries = torch.repeat_interleave(entries, counts[done:upto])
        total = len(entries)
        within = torch.arange(total, device=counts.device) - (ends - counts - before)[entries]
        yield entries, col_ptr[x_columns[entries].long()] + within
        done = upto


LIBRARY.impl("sparse_input_product", _product, "CompositeExplicitAutograd")
LIBRARY.impl("sparse_input_sampled", _sampled, "CompositeExplicitAutograd")


@torch.library.register_fake("regrow::sparse_input_product", lib=LIBRARY)
def _product_shape(values: Tensor, x_ptr: Tensor, *others: Any) -> Tensor:
    return values.new_empty((x_ptr.shape[0] - 1, others[-2]))


@torch.library.register_fake("regrow::sparse_input_sampled", lib=LIBRARY)
def _sampled_shape(dy: Tensor, *others: Any) -> Tensor:
    return dy.new_empty(others[4].shape)


def _save_product(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:7])
    ctx.backend = inputs[-1]


def _product_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return OPS.sparse_input_sampled(dy, *ctx.saved_tensors, ctx.backend), *[None] * 8


def _save_sampled(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.n_out = dy.shape[1]


def _sampled_gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    dy = OPS.sparse_input_product(g, *ctx.saved_tensors, ctx.n_out, ctx.backend)
    return dy, *[None] * 7


torch.library.register_autograd(
    "regrow::sparse_input_product", _product_gradients, setup_context=_save_product, lib=LIBRARY
)
torch.library.register_autograd(
    "regrow::sparse_input_sampled", _sampled_gradients, setup_context=_save_sampled, lib=LIBRARY
)


@register_flop_formula(
    [torch.ops.regrow.sparse_input_product, torch.ops.regrow.sparse_input_sampled]
)
def _flops(
    first: Any, x_ptr: Any, x_columns: Any, x: Any, col_ptr: Any, rows: Any, *_: Any,
    out_shape: Any = None, **__: Any,
) -> int:  # fmt: skip
    # (Shapes are all that is known: exact where columns are used alike.)
    return int(2 * x_columns[0] * rows[0] // max(1, col_ptr[0] - 1))
