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
from regrow.ops._parts import GATHER, PRODUCT, SAMPLED, TILES, Part

OLDEST = (0, 63)
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
DTYPES = (torch.float32, torch.float64, torch.bfloat16)

FEATURES, GATHERED = 64, 4096
"""Features whose samples, and values that, a unit puts in another order."""
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


def _n_threads(nnz: int, n_batch: int) -> int:
    return _threads.n_parts(2 * nnz * n_batch)


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


def _in_tiles(x_BI: Tensor) -> tuple[Tensor, list[Part]]:
    """Samples in the order of the kernels, and what brings them there, if anything has to.

    Up to one tile the tensor is (B, I), feature-major in memory; otherwise it is flat.
    """
    dtype, (n_batch, n_in) = x_BI.dtype, x_BI.shape
    feature_major, one_tile = is_feature_major(x_BI), is_one_tile(n_batch, dtype)
    if feature_major and one_tile:
        return x_BI, []
    source = x_BI if feature_major else x_BI.contiguous()
    shape, strides = ((n_batch, n_in), (1, n_batch)) if one_tile else ((x_BI.numel(),), (1,))
    tiles = torch.empty_strided(shape, strides, dtype=dtype, device="cpu")
    entries = n_in, n_batch, _widest(dtype), feature_major, FEATURES, source, tiles
    return tiles, [Part(TILES, entries, -(-n_in // FEATURES))]


def _product_part(
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
) -> tuple[Tensor, Part]:
    """(B, n_out) of the dtype of sums, batch-first or feature-major, and what computes it."""
    dtype, n_out, nnz = tiles.dtype, starts.shape[0] - 1, indices.numel()
    widest, sums = _widest(dtype), _sums(dtype)
    if bias is not None:
        bias = bias.detach().to(sums).contiguous()
    strides = (n_out, 1) if batch_first else (1, n_batch)
    y = torch.empty_strided((n_batch, n_out), strides, dtype=sums, device="cpu")
    entries = (
        *(n_in, n_batch, n_out, widest),
        _columns_at_once((n_out, n_in, nnz), min(widest, n_batch) * dtype.itemsize),
        _rows_at_once(n_out, -(-n_batch // widest), _n_threads(nnz, n_batch)),
        *(nnz, 0 if order is None else nnz, 0 if bias is None else n_out, batch_first),
        *(
            tiles,
            starts,
            indices,
            values,
            0 if order is None else order,
            0 if bias is None else bias,
            y,
        ),
    )
    return y, Part(PRODUCT, entries)


def _transposed_parts(
    values: Tensor, dy_tiles: Tensor, pattern: Pattern, n_batch: int, *, batch_first: bool
) -> tuple[Tensor, list[Part]]:
    if pattern.col_ptr is None or pattern.rows is None or pattern.order is None:
        raise ValueError("the column form is missing")
    values, order, nnz = values.contiguous(), pattern.order, pattern.order.numel()
    places: Tensor | None = order
    before = []
    if n_batch > _widest(values.dtype):
        # Several tiles: put the values in order once.
        source, values, places = values, torch.empty_like(values), None
        before = [Part(GATHER, (nnz, GATHERED, source, order, values), -(-nnz // GATHERED))]
    dx, part = _product_part(
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
    return dx, [*before, part]


def _sampled_part(
    dy_tiles: Tensor, tiles: Tensor, pattern: Pattern, n_batch: int
) -> tuple[Tensor, Part]:
    dtype, nnz, n_in, n_out = tiles.dtype, pattern.columns.numel(), pattern.n_in, pattern.n_out
    widest = _widest(dtype)
    out = torch.empty(nnz, dtype=_sums(dtype), device="cpu")
    entries = (
        *(n_in, n_batch, n_out, widest),
        _columns_at_once((n_out, n_in, nnz), min(widest, n_batch) * dtype.itemsize),
        _rows_at_once(n_out, 1, _n_threads(nnz, n_batch)),
        *(nnz, tiles, dy_tiles, pattern.row_ptr, pattern.columns, out),
    )
    return out, Part(SAMPLED, entries)


def _run(parts: list[Part], dtype: torch.dtype, n_threads: int) -> None:
    _threads.run_task(_tasks().task(dtype), parts, n_threads)


def product(values: Tensor, x_BI: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    """See ``Backend.product``."""
    return product_and_order(values, x_BI, bias, pattern)[0]


def product_and_order(
    values: Tensor, x_BI: Tensor, bias: Tensor | None, pattern: Pattern
) -> tuple[Tensor, Tensor]:
    """See ``Backend.product_and_order``."""
    n_batch, n_in = x_BI.shape
    tiles, parts = _in_tiles(x_BI)
    y, part = _product_part(
        tiles,
        pattern.row_ptr,
        pattern.columns,
        values.contiguous(),
        None,
        bias,
        n_batch=n_batch,
        n_in=n_in,
        batch_first=False,
    )
    if y.numel():
        _run([*parts, part], x_BI.dtype, _n_threads(pattern.columns.numel(), n_batch))
    return y.to(x_BI.dtype), tiles if tiles.dim() == 2 else x_BI


def transposed_product(values: Tensor, dy_BO: Tensor, pattern: Pattern) -> Tensor:
    """See ``Backend.transposed_product``."""
    n_batch = dy_BO.shape[0]
    dy_tiles, parts = _in_tiles(dy_BO)
    dx, others = _transposed_parts(values, dy_tiles, pattern, n_batch, batch_first=False)
    if dx.numel():
        _run(parts + others, dy_BO.dtype, _n_threads(values.numel(), n_batch))
    return dx.to(dy_BO.dtype)


def sampled_product(dy_BO: Tensor, x_BI: Tensor, pattern: Pattern) -> Tensor:
    """See ``Backend.sampled_product``."""
    nnz, n_batch = pattern.columns.numel(), x_BI.shape[0]
    if not n_batch:
        return torch.zeros(nnz, dtype=x_BI.dtype, device="cpu")
    (dy_tiles, first), (tiles, then) = _in_tiles(dy_BO), _in_tiles(x_BI)
    dvalues, part = _sampled_part(dy_tiles, tiles, pattern, n_batch)
    _run([*first, *then, part], x_BI.dtype, _n_threads(nnz, n_batch))
    return dvalues.to(x_BI.dtype)


def both_gradients(
    values: Tensor, dy_BO: Tensor, x_BI: Tensor, pattern: Pattern, batch_first: bool
) -> tuple[Tensor, Tensor]:
    """See ``Backend.both_gradients``."""
    nnz, n_batch, dtype = pattern.columns.numel(), dy_BO.shape[0], dy_BO.dtype
    if not n_batch:
        return torch.zeros(nnz, dtype=dtype, device="cpu"), torch.empty_like(x_BI)
    (dy_tiles, first), (tiles, then) = _in_tiles(dy_BO), _in_tiles(x_BI)
    dx, parts = _transposed_parts(values, dy_tiles, pattern, n_batch, batch_first=batch_first)
    dvalues, part = _sampled_part(dy_tiles, tiles, pattern, n_batch)
    products = [*parts, part] if dx.numel() else [part]
    _run([*first, *then, *products], dtype, _n_threads(nnz, n_batch))
    return dvalues.to(dtype), dx.to(dtype)


def _flat(tensor: Tensor) -> np.ndarray:
    """The memory of a contiguous tensor."""
    return tensor.detach().numpy().reshape(-1)


def column_form(row_ptr: Tensor, columns: Tensor, n_in: int) -> tuple[Tensor, Tensor, Tensor]:
    """Connections in column order, by counting: ``col_ptr``, ``rows``, ``order``."""
    col_ptr = torch.zeros(n_in + 1, dtype=torch.int64, device="cpu")
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
    product_and_order=product_and_order,
)
