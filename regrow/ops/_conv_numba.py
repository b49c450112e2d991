"""Sparse convolutions on the vector kernels of ``_conv_kernels``, for CPUs."""

from __future__ import annotations

import functools
import itertools
import math
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from regrow.ops import _threads
from regrow.ops._conv_memory import empty
from regrow.ops._conv_plan import (
    Axis,
    Plan,
    Sizes,
    make_plan,
    output_gradient_plan,
    phase_table,
    tap_tables,
)


@functools.cache
def _kernels() -> ModuleType:
    from regrow.ops import _conv_kernels

    return _conv_kernels


def _flat(tensor: Tensor) -> np.ndarray:
    """The memory of a contiguous tensor."""
    return tensor.detach().numpy().reshape(-1)


def _lanes(dtype: torch.dtype) -> int:
    return int(_kernels().LANES[dtype.itemsize])


class _Work(NamedTuple):
    """A plan with its tables."""

    plan: Plan
    phases: np.ndarray
    taps: np.ndarray
    targets: np.ndarray
    per_block: int


@functools.lru_cache(maxsize=256)
def _plan(sizes: Sizes, dtype: torch.dtype, *, backward: bool, samples: int) -> _Work:
    # (A few hundred bytes each; at small sizes making it would take half of the time.)
    kernels = _kernels()
    plan, found = make_plan(
        sizes, backward=backward, samples=samples, lanes=_lanes(dtype), n_sums=kernels.N_SUMS,
        itemsize=dtype.itemsize,
    )  # fmt: skip
    return _work(plan, found, plan.s_channels // sizes.groups)


def _work(plan: Plan, found: tuple[Axis, Axis, Axis], in_group: int) -> _Work:
    taps, targets = (np.array(table, np.int64) for table in tap_tables(plan, found))
    phases = np.array(phase_table(found), np.int64)
    return _Work(plan, phases, taps, targets, -(-in_group // plan.n_blocks))


def _samples(sizes: Sizes, dtype: torch.dtype, *, backward: bool) -> int:
    """Samples of a group: as many as a vector has lanes, or 1 where too few would be wasted."""
    lanes = _lanes(dtype)
    if backward and max(sizes.stride) > 1:
        # The phases of one sample's lines do not lie side by side.
        return lanes
    width = (sizes.source if backward else sizes.output)[2]
    full = -(-width // lanes) * lanes / width
    n_groups = -(-sizes.n_samples // lanes)
    # Vectors along a line are read across two cache lines, which cost about a tenth: with
    # benchmarks/ops/sparse_conv.py --parts forward, one sample at a time won up to a batch of 12
    # where lines are multiples of 14 or 16 pixels, up to 6 at lines of 7 or 8, and 2 at lines of 4.
    return 1 if 1.1 * full * sizes.n_samples < n_groups * lanes else lanes


def _scratch(n: int, dtype: torch.dtype) -> np.ndarray:
    # (torch's memory starts at a cache line, numpy's need not.)
    return _flat(empty((n,), dtype))


def _block(plan: Plan, dtype: torch.dtype) -> np.ndarray:
    """Scratch for a block of lines."""
    return _scratch(plan.s_channels * plan.channel + _kernels().N_SUMS * plan.lanes, dtype)


def _stages(plan: Plan, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Scratch for what is transposed at a time, after and before."""
    n_pixels = max(_kernels().STAGE, plan.s_w)
    # (Samples an odd number of cache lines apart.)
    before = n_pixels + plan.lanes * (1 + n_pixels // plan.lanes % 2)
    return _scratch(n_pixels * plan.lanes, dtype), _scratch(before * plan.lanes, dtype)


def _starts(plan: Plan) -> list[tuple[int, int]]:
    """Depths and heights where the blocks of lines start."""
    depths, heights = range(0, plan.n_d, plan.block_d), range(0, plan.n_h, plan.block_h)
    return list(itertools.product(depths, heights))


def _units(n_first: int, starts: np.ndarray, n: int) -> list[tuple[int, int, int]]:
    """Work for ``n`` threads: (number below ``n_first``, rows from, rows to).

    Rows are split only where there are fewer numbers than threads: each unit copies its source.
    """
    bounds = _threads.equal_work(starts, 1 if n_first >= n else -(-n // n_first))
    rows = [(a, b) for a, b in itertools.pairwise(bounds) if a < b]
    return [(number, *part) for number in range(n_first) for part in rows]


def _multiply(
    work: _Work, source: Tensor, connections: tuple[np.ndarray, ...], bias: np.ndarray,
    target: Tensor,
) -> None:  # fmt: skip
    """Fill ``target`` with one product."""
    kernels, plan, dtype = _kernels(), work.plan, source.dtype
    ptr, offsets, values = connections
    src, to, blocks = _flat(source), _flat(target), _starts(plan)
    n_sums = plan.t_channels * plan.out_d * plan.strip * plan.out_h * plan.line
    n_sums += kernels.N_SUMS * plan.lanes
    n = _threads.n_parts(2 * len(values) * plan.n_samples * plan.n_d * plan.n_h * plan.n_w)
    units = _units(-(-plan.n_samples // plan.samples), _row_work(ptr, plan), n)

    def some(first: int, last: int) -> None:
        scratch, stages = _block(plan, dtype), _stages(plan, dtype)
        sums = _scratch(n_sums, dtype)
        for unit in range(first, last):
            group, *rows = units[unit]
            # Each group overwrites the pixels of the last one; its padding stays.
            clear = len(blocks) > 1 or unit == first
            for block in blocks:
                kernels.pack(
                    plan, work.phases, src, scratch, group, *block, clear, 0, plan.s_channels,
                    *stages,
                )  # fmt: skip
                kernels.sum_block(
                    plan, scratch, ptr, offsets, values, bias, sums, to, group, *block, *rows
                )

    _threads.run(some, _threads.equal_runs(len(units), n, 1))


def _row_work(ptr: np.ndarray, plan: Plan) -> np.ndarray:
    """Where each target channel starts, in connections of all phases before it."""
    counts = np.diff(ptr[:: plan.n_blocks]).reshape(-1, plan.t_channels).sum(0)
    return np.concatenate([[0], np.cumsum(counts)])


def _computed(*tensors: Tensor) -> list[Tensor]:
    """Contiguous, and of the type that sums have."""
    sums = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    return [t.to(sums).contiguous() for t in tensors]


def forward(
    values: Tensor, x: Tensor, bias: Tensor | None, row_ptr: Tensor, columns: Tensor, sizes: Sizes
) -> Tensor:
    """See ``ConvBackend.forward``."""
    dtype = x.dtype
    values, x = _computed(values, x)
    y = empty((sizes.n_samples, sizes.n_out, *sizes.output), x.dtype)
    if not y.numel():
        return y.to(dtype)
    work = _plan(sizes, x.dtype, backward=False, samples=_samples(sizes, x.dtype, backward=False))
    added = _flat(torch.empty(0, dtype=x.dtype) if bias is None else _computed(bias)[0])
    connections = _row_connections(work, row_ptr, columns, sizes)
    _multiply(work, x, (*connections, _flat(values)), added, y)
    return y.to(dtype)


def _row_connections(
    work: _Work, row_ptr: Tensor, columns: Tensor, sizes: Sizes
) -> tuple[np.ndarray, np.ndarray]:
    plan = work.plan
    ptr = np.empty(sizes.n_out * plan.n_blocks + 1, np.int64)
    offsets = np.empty(len(columns), np.int32)
    _kernels().row_connections(
        _flat(row_ptr), _flat(columns), sizes.n_taps, work.taps, plan.channel,
        work.per_block, plan.n_blocks, sizes.groups, sizes.n_in, ptr, offsets,
    )  # fmt: skip
    return ptr, offsets


def input_gradient(
    values: Tensor, dy: Tensor, row_ptr: Tensor, columns: Tensor, sizes: Sizes
) -> Tensor:
    """See ``ConvBackend.input_gradient``."""
    dtype = dy.dtype
    values, dy = _computed(values, dy)
    dx = empty((sizes.n_samples, sizes.n_in, *sizes.source), dy.dtype)
    if not dx.numel():
        return dx.to(dtype)
    work = _plan(sizes, dy.dtype, backward=True, samples=_samples(sizes, dy.dtype, backward=True))
    plan = work.plan
    n_rows = math.prod(sizes.stride) * sizes.n_in
    ptr = np.zeros(n_rows * plan.n_blocks + 2, np.int64)
    offsets, own = np.empty(len(columns), np.int32), _flat(values)
    weights = np.empty_like(own)
    _kernels().column_connections(
        _flat(row_ptr), _flat(columns), own, sizes.n_taps, work.taps, work.targets, plan.channel,
        work.per_block, plan.n_blocks, sizes.groups, sizes.n_in, ptr, offsets, weights,
    )  # fmt: skip
    _multiply(work, dy, (ptr[:-1], offsets, weights), _flat(torch.empty(0, dtype=dy.dtype)), dx)
    return dx.to(dtype)


N_CHUNKS = 4
"""Parts of the batch whose value gradients are added at the end."""
ALL_PHASES = np.zeros(3, np.int64)
LINE_VECTORS = 64
"""Of the output gradient, read for several connections in turn: they stay in the first cache."""


def value_gradient(dy: Tensor, x: Tensor, row_ptr: Tensor, columns: Tensor, sizes: Sizes) -> Tensor:
    """See ``ConvBackend.value_gradient``."""
    kernels, dtype = _kernels(), x.dtype
    dy, x = _computed(dy, x)
    if not (dy.numel() and x.numel()):
        return torch.zeros(len(columns), dtype=dtype)
    lanes = _lanes(x.dtype)
    work = _plan(sizes, x.dtype, backward=False, samples=lanes)
    plan = work.plan
    ptr, offsets = _row_connections(work, row_ptr, columns, sizes)
    own = output_gradient_plan(plan, sizes)
    source, dy_source, blocks = _flat(x), _flat(dy), _starts(plan)
    n_lines = max(1, LINE_VECTORS // plan.n_w)
    # Groups are summed in chunks that do not depend on the number of threads.
    n_groups = -(-plan.n_samples // lanes)
    n_chunks = min(N_CHUNKS, n_groups)
    groups = _threads.equal_runs(n_groups, n_chunks, 1)
    # (The memory is numpy's: torch would fill it on OpenMP threads, which a forked child lacks.)
    out = np.zeros((n_chunks, len(columns)), source.dtype)
    n = _threads.n_parts(2 * len(columns) * plan.n_samples * plan.n_d * plan.n_h * plan.n_w)
    units = _units(n_chunks, _flat(row_ptr), n)
    unpadded = False

    def some(first: int, last: int) -> None:
        scratch, dy_scratch = _block(plan, x.dtype), _block(own, x.dtype)
        stages, dy_stages = _stages(plan, x.dtype), _stages(own, x.dtype)
        for chunk, *rows in units[first:last]:
            for group, block in itertools.product(range(*groups[chunk : chunk + 2]), blocks):
                clear = len(blocks) > 1 or group == groups[chunk]
                kernels.pack(
                    plan, work.phases, source, scratch, group, *block, clear, 0, plan.s_channels,
                    *stages,
                )  # fmt: skip
                kernels.pack(
                    own,
                    ALL_PHASES,
                    dy_source,
                    dy_scratch,
                    group,
                    *block,
                    unpadded,
                    *rows,
                    *dy_stages,
                )
                kernels.sampled_block(
                    plan, own, scratch, dy_scratch, ptr, offsets, out[chunk], *block, n_lines, *rows
                )

    _threads.run(some, _threads.equal_runs(len(units), n, 1))
    return torch.from_numpy(out.sum(0)).to(dtype)
