"""The back end "numba": vector kernels compiled on first use, for CPUs.

numba is imported by the first operation that runs on it, never before.
"""

# ruff: noqa: FBT001, N803 (shape letters; booleans are part of the interface)

from __future__ import annotations

import functools
import re
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from regrow._optional import require
from regrow.errors import BackendUnavailableError
from regrow.ops import _threads
from regrow.ops._backend import Backend, Pattern, is_feature_major

OLDEST = (0, 63)
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
DTYPES = (torch.float32, torch.float64, torch.bfloat16)

CHUNK = 256
"""Rows of a unit at most: their sums stay in the second-level cache from block to block."""
RUN = 16
NEAR_BYTES, FAR_BYTES = 32 * 1024, 384 * 1024
"""Inputs of a block: as many as stay in the first-level cache, or so many more that a row has RUN
connections among them, up to what stays in the second-level cache. With the inputs in the first
cache the kernels do 65 GFLOP/s on one core that could do 118, out of the second one 45; each run
costs about as much as five connections, though. Times: benchmarks/ops/sparse_product.py."""


@functools.cache
def missing() -> str:
    """Why numba cannot be used at all; "" where it can."""
    try:
        version = require("numba", extra="sparse").__version__
    except BackendUnavailableError as error:
        return str(error)
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if found < OLDEST:
        return (
            f"numba {version} is older than 0.63: pip install 'regrow[sparse]' brings a newer one"
        )
    return ""


@functools.cache
def _kernels() -> ModuleType:
    from regrow.ops import _kernels

    return _kernels


@functools.cache
def sample_kernels() -> ModuleType:
    """The kernels for sparse inputs."""
    from regrow.ops import _sample_kernels

    return _sample_kernels


@functools.cache
def _tasks() -> ModuleType:
    from regrow.ops import _tasks

    return _tasks


def unsupported(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Reasons why the kernels cannot run."""
    reasons = []
    if device.type != "cpu":
        reasons.append(f"it runs on CPUs, the tensors are on {device}")
    if dtype not in DTYPES:
        reasons.append(f"it takes float32, float64 and bfloat16, got {dtype}")
    return reasons or ([missing()] if missing() else [])


def _widest(dtype: torch.dtype) -> int:
    tasks = _tasks()
    return int(tasks.WIDEST_F64 if dtype == torch.float64 else tasks.WIDEST_F32)


def _sums(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _size(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel()


def _run(name: str, dtype: torch.dtype, numbers: list[int], n_threads: int) -> None:
    _threads.run_task(_tasks().task(name, dtype), numbers, n_threads)


def is_one_tile(n_batch: int, dtype: torch.dtype) -> bool:
    """Whether the kernels read feature-major samples where they are."""
    return 0 < n_batch <= _widest(dtype) and n_batch & (n_batch - 1) == 0


def _rows_at_once(n_rows: int, n_tiles: int, n_threads: int) -> int:
    """Rows of a unit: several units for each thread, so that all are done at the same time."""
    return min(CHUNK, max(16, n_rows * n_tiles // (4 * n_threads)))


def _columns_at_once(pattern_size: tuple[int, int, int], n_bytes: int) -> int:
    """Columns of a block: see ``NEAR_BYTES``.

    Args:
        pattern_size: Rows, columns and connections.
        n_bytes: Of a column's numbers in a tile.
    """
    n_rows, n_columns, nnz = pattern_size
    n_bytes = max(1, n_bytes)
    if FAR_BYTES // n_bytes * nnz < n_rows * n_columns:
        return n_columns  # blocks in which most rows have nothing: to look for it is all there is
    wanted = RUN * n_rows * n_columns // max(1, nnz)
    block = max(1, NEAR_BYTES // n_bytes, min(wanted, FAR_BYTES // n_bytes))
    n_blocks = -(-n_columns // block)
    return max(1, -(-n_columns // max(1, n_blocks)))


def _tiles(x_BI: Tensor) -> Tensor:
    """Samples in the order of the kernels, copied where they are in another one."""
    dtype, (n_batch, n_in) = x_BI.dtype, x_BI.shape
    feature_major = is_feature_major(x_BI)
    if feature_major and is_one_tile(n_batch, dtype):
        return x_BI
    source, tiles = (
        x_BI if feature_major else x_BI.contiguous(),
        torch.empty(x_BI.numel(), dtype=dtype),
    )
    numbers = [n_in, n_batch, _widest(dtype), feature_major, 64, _address(source), _address(tiles)]
    _run("tiles", dtype, numbers, _threads.n_parts(8 * x_BI.numel()))
    return tiles


def packed(x_BI: Tensor) -> Tensor:
    """See ``Backend.packed``."""
    n_batch, n_in = x_BI.shape
    if is_feature_major(x_BI) or not is_one_tile(n_batch, x_BI.dtype):
        return x_BI
    return _tiles(x_BI).view(n_in, n_batch).t()


def _multiply(
    tiles: Tensor,
    starts: Tensor,
    indices: Tensor,
    values: Tensor,
    order: Tensor | None,
    bias: Tensor | None,
    *,
    n_batch: int,
    n_in: int,
    batch_first: bool,
) -> Tensor:
    """(B, n_out) of the dtype of the tiles, feature-major or batch-first in memory."""
    dtype, n_out, nnz = tiles.dtype, starts.shape[0] - 1, indices.numel()
    widest, sums = _widest(dtype), _sums(dtype)
    if bias is not None:
        bias = bias.detach().to(sums).contiguous()
    n = _threads.n_parts(2 * nnz * n_batch)
    y = torch.empty((n_batch, n_out) if batch_first else (n_out, n_batch), dtype=sums)
    numbers = [
        *(n_in, n_batch, n_out, widest),
        _columns_at_once((n_out, n_in, nnz), min(widest, n_batch) * dtype.itemsize),
        _rows_at_once(n_out, -(-n_batch // widest), n),
        *(nnz, _size(order), _size(bias), batch_first),
        *(_address(one) for one in (tiles, starts, indices, values, order, bias, y)),
    ]
    if y.numel():
        _run("product", dtype, numbers, n)
    if dtype != sums:
        y = y.to(dtype)
    return y if batch_first else y.t()


def product(values: Tensor, x_BI: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    """See ``Backend.product``."""
    return _multiply(
        _tiles(x_BI),
        pattern.row_ptr,
        pattern.columns,
        values.contiguous(),
        None,
        bias,
        n_batch=x_BI.shape[0],
        n_in=pattern.n_in,
        batch_first=False,
    )


def transposed_product(values: Tensor, dy_BO: Tensor, pattern: Pattern) -> Tensor:
    """See ``Backend.transposed_product``."""
    return _transposed(values, _tiles(dy_BO), pattern, dy_BO.shape[0], batch_first=False)


def _transposed(
    values: Tensor, dy_tiles: Tensor, pattern: Pattern, n_batch: int, *, batch_first: bool
) -> Tensor:
    if pattern.col_ptr is None or pattern.rows is None or pattern.order is None:
        raise ValueError("the column form is missing")
    values, order = values.contiguous(), pattern.order
    places: Tensor | None = order
    if n_batch > _widest(values.dtype):
        # Several tiles: put the values in order once.
        values, places = _gathered(values, order), None
    return _multiply(
        dy_tiles,
        pattern.col_ptr,
        pattern.rows,
        values,
        places,
        None,
        n_batch=n_batch,
        n_in=pattern.n_out,
        batch_first=batch_first,
    )


def _gathered(values: Tensor, order: Tensor) -> Tensor:
    out, nnz = torch.empty_like(values), order.numel()
    numbers = [nnz, 4096, _address(values), _address(order), _address(out)]
    _run("gather", values.dtype, numbers, _threads.n_parts(8 * nnz))
    return out


def sampled_product(dy_BO: Tensor, x_BI: Tensor, pattern: Pattern) -> Tensor:
    """See ``Backend.sampled_product``."""
    return _sampled(_tiles(dy_BO), _tiles(x_BI), pattern, x_BI.shape[0])


def _sampled(dy_tiles: Tensor, tiles: Tensor, pattern: Pattern, n_batch: int) -> Tensor:
    dtype, nnz, n_in, n_out = tiles.dtype, pattern.columns.numel(), pattern.n_in, pattern.n_out
    widest, sums = _widest(dtype), _sums(dtype)
    if not n_batch:
        return torch.zeros(nnz, dtype=dtype)
    n = _threads.n_parts(2 * nnz * n_batch)
    out = torch.empty(nnz, dtype=sums)
    numbers = [
        *(n_in, n_batch, n_out, widest),
        _columns_at_once((n_out, n_in, nnz), min(widest, n_batch) * dtype.itemsize),
        _rows_at_once(n_out, 1, n),
        nnz,
        *(_address(one) for one in (tiles, dy_tiles, pattern.row_ptr, pattern.columns, out)),
    ]
    _run("sampled", dtype, numbers, n)
    return out if dtype == sums else out.to(dtype)


def _flat(tensor: Tensor) -> np.ndarray:
    """The memory of a contiguous tensor."""
    return tensor.detach().numpy().reshape(-1)


def both_gradients(
    values: Tensor, dy_BO: Tensor, x_BI: Tensor, pattern: Pattern, batch_first: bool
) -> tuple[Tensor, Tensor]:
    """See ``Backend.both_gradients``."""
    n_batch, dy_tiles = dy_BO.shape[0], _tiles(dy_BO)
    dx = _transposed(values, dy_tiles, pattern, n_batch, batch_first=batch_first)
    return _sampled(dy_tiles, _tiles(x_BI), pattern, n_batch), dx


def column_form(row_ptr: Tensor, columns: Tensor, n_in: int) -> tuple[Tensor, Tensor, Tensor]:
    """Connections in column order, by counting: ``col_ptr``, ``rows``, ``order``."""
    col_ptr = torch.zeros(n_in + 1, dtype=torch.int64)
    rows, order = torch.empty_like(columns), torch.empty_like(columns)
    _kernels().column_form(*(_flat(t) for t in (row_ptr, columns, col_ptr, rows, order)))
    return col_ptr, rows, order


def carry(*tensors: Tensor) -> None:
    """Merge (old row_ptr, columns, values) and (new row_ptr, columns) into new values, in place."""
    row_ptr, columns, values, new_row_ptr, new_columns, carried = tensors
    if values.element_size() in BITS:
        # Only moved, never added: any dtype of that size will do, and fewer are compiled.
        values, carried = (t.view(BITS[t.element_size()]) for t in (values, carried))
    _kernels().carry(
        *(_flat(t) for t in (row_ptr, columns, values, new_row_ptr, new_columns, carried))
    )


NUMBA = Backend(
    name="numba",
    product=product,
    transposed_product=transposed_product,
    sampled_product=sampled_product,
    unsupported=unsupported,
    tolerances={
        torch.float32: (1e-4, 1e-4),
        torch.float64: (1e-11, 1e-11),
        torch.bfloat16: (1.6e-2, 2e-2),
    },
    deterministic=True,
    both_gradients=both_gradients,
    packed=packed,
)
