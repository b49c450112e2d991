"""The back end "numba": vector kernels compiled on first use, for CPUs.

numba is imported by the first operation that runs on it, never before.
"""

# ruff: noqa: N803, N806 (shape letters)

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


def unsupported(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Reasons why the kernels cannot run."""
    reasons = []
    if device.type != "cpu":
        reasons.append(f"it runs on CPUs, the tensors are on {device}")
    if dtype not in DTYPES:
        reasons.append(f"it takes float32, float64 and bfloat16, got {dtype}")
    return reasons or ([missing()] if missing() else [])


def _widest(dtype: torch.dtype) -> int:
    kernels = _kernels()
    return int(kernels.WIDEST_F64 if dtype == torch.float64 else kernels.WIDEST_F32)


def _lanes(dtype: torch.dtype) -> int:
    kernels = _kernels()
    return int(kernels.LANES_F64 if dtype == torch.float64 else kernels.LANES_F32)


def _sums(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _flat(tensor: Tensor) -> np.ndarray:
    """The memory of a contiguous tensor; bfloat16 as int16, which is how kernels take it."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    return tensor.numpy().reshape(-1)


def is_one_tile(n_batch: int, dtype: torch.dtype) -> bool:
    """Whether the kernels read feature-major samples where they are."""
    return 0 < n_batch <= _widest(dtype) and n_batch & (n_batch - 1) == 0


def _tiles(x_BI: Tensor) -> np.ndarray:
    """Samples in the order of the kernels, copied where they are in another one."""
    kernels, widest, lanes = _kernels(), _widest(x_BI.dtype), _lanes(x_BI.dtype)
    n_batch, n_in = x_BI.shape
    if is_feature_major(x_BI):
        source = _flat(x_BI.t())
        if is_one_tile(n_batch, x_BI.dtype):
            return source
        tiles = _flat(torch.empty(x_BI.numel(), dtype=x_BI.dtype))

        def part(first: int, last: int) -> None:
            kernels.tiles_of_feature_major(source, n_in, n_batch, tiles, first, last, widest)
    else:
        source = _flat(x_BI.contiguous())
        # (torch's memory starts at a cache line, numpy's need not.)
        tiles = _flat(torch.empty(x_BI.numel(), dtype=x_BI.dtype))

        def part(first: int, last: int) -> None:
            kernels.tiles_of_batch_first(source, n_in, n_batch, tiles, first, last, widest, lanes)

    n = _threads.n_parts(8 * x_BI.numel())
    _threads.run(part, _threads.equal_runs(n_in, n, lanes))
    return tiles


def feature_major(x_BI: Tensor) -> Tensor:
    """The same numbers in new memory with strides (1, B)."""
    kernels, lanes = _kernels(), _lanes(x_BI.dtype)
    n_batch, n_in = x_BI.shape
    x_IB = x_BI.new_empty((n_in, n_batch))
    source, target = _flat(x_BI.contiguous()), _flat(x_IB)

    def part(first: int, last: int) -> None:
        kernels.tiles_of_batch_first(source, n_in, n_batch, target, first, last, 0, lanes)

    n = _threads.n_parts(8 * x_BI.numel())
    _threads.run(part, _threads.equal_runs(n_in, n, lanes))
    return x_IB.t()


def _multiply(
    tiles: np.ndarray,
    starts: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    order: np.ndarray | None,
    bias: Tensor | None,
    like: Tensor,
    n_in: int,
) -> Tensor:
    """(B, n_out) feature-major, of the dtype of ``like`` (B, n_in)."""
    kernels, dtype, n_batch = _kernels(), like.dtype, like.shape[0]
    widest, sums = _widest(dtype), _sums(dtype)
    n_out = len(starts) - 1
    y_OB = torch.empty((n_out, n_batch), dtype=sums)
    y = y_OB.numpy().reshape(-1)
    added = _flat(torch.empty(0, dtype=sums) if bias is None else bias.to(sums).contiguous())

    def rows(first: int, last: int) -> None:
        kernels.product(
            tiles, n_in, n_batch, starts, indices, values, order, added, y, first, last,
            0, n_batch, widest,
        )  # fmt: skip

    def samples(first: int, last: int) -> None:
        kernels.product(
            tiles, n_in, n_batch, starts, indices, values, order, added, y, 0, n_out,
            first, last, widest,
        )  # fmt: skip

    n = _threads.n_parts(2 * len(indices) * n_batch)
    if n > 1 and n_batch % (n * widest) == 0:
        # A thread that keeps to its own tiles shares no cache line with another.
        _threads.run(samples, _threads.equal_runs(n_batch, n, widest))
    else:
        _threads.run(rows, _threads.equal_work(starts, n))
    return y_OB.to(dtype).t()


def product(values: Tensor, x_BI: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    """See ``Backend.product``."""
    starts, indices = _flat(pattern.row_ptr), _flat(pattern.columns)
    return _multiply(
        _tiles(x_BI), starts, indices, _flat(values.contiguous()), None, bias, x_BI, pattern.n_in
    )


def transposed_product(values: Tensor, dy_BO: Tensor, pattern: Pattern) -> Tensor:
    """See ``Backend.transposed_product``."""
    if pattern.col_ptr is None or pattern.rows is None or pattern.order is None:
        raise ValueError("the column form is missing")
    starts, indices, order = (_flat(t) for t in (pattern.col_ptr, pattern.rows, pattern.order))
    own = _flat(values.contiguous())
    places: np.ndarray | None = order
    if dy_BO.shape[0] > _widest(dy_BO.dtype):
        # Several tiles: put the values in order once.
        own, places = _gathered(own, order), None
    return _multiply(_tiles(dy_BO), starts, indices, own, places, None, dy_BO, pattern.n_out)


def _gathered(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    out = np.empty_like(values)

    def part(first: int, last: int) -> None:
        _kernels().gather(values, order, out, first, last)

    _threads.run(part, _threads.equal_runs(len(order), _threads.n_parts(8 * len(order)), 1024))
    return out


def sampled_product(dy_BO: Tensor, x_BI: Tensor, pattern: Pattern) -> Tensor:
    """See ``Backend.sampled_product``."""
    kernels, dtype, n_batch = _kernels(), x_BI.dtype, x_BI.shape[0]
    starts, indices = _flat(pattern.row_ptr), _flat(pattern.columns)
    # The memory is numpy's: torch would fill it on OpenMP threads, which a forked child lacks.
    target = np.zeros(len(indices), np.float64 if dtype == torch.float64 else np.float32)
    tiles, dy_tiles = _tiles(x_BI), _tiles(dy_BO)

    def rows(first: int, last: int) -> None:
        kernels.sampled(
            tiles, pattern.n_in, n_batch, starts, indices, dy_tiles, pattern.n_out, target,
            first, last, _widest(dtype),
        )  # fmt: skip

    n = _threads.n_parts(2 * len(indices) * n_batch)
    _threads.run(rows, _threads.equal_work(starts, n))
    return torch.from_numpy(target).to(dtype)


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
    feature_major=feature_major,
    wants_feature_major=is_one_tile,
    unsupported=unsupported,
    tolerances={
        torch.float32: (1e-4, 1e-4),
        torch.float64: (1e-11, 1e-11),
        torch.bfloat16: (1.6e-2, 2e-2),
    },
    deterministic=True,
)
