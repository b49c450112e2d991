"""Parts of a product on as many threads as torch uses.

A pool of our own: numba's would need a threading layer that is not safe under fork, and its number
of threads would have to follow torch's.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
import torch

_pools: dict[int, Executor] = {}
"""Process id -> its pool. A forked child inherits the dictionary, but not its parent's threads."""


def _pool() -> Executor:
    pid = os.getpid()
    if pid not in _pools:
        # Threads start when they are first needed, so that the limit costs nothing.
        _pools[pid] = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="regrow")
    return _pools[pid]


def n_parts(n_flops: int) -> int:
    """Into how many parts to split so much work: one is faster below about 0.1 milliseconds."""
    return torch.get_num_threads() if n_flops > 4_000_000 else 1


def run(function: Callable[[int, int], None], bounds: Sequence[int]) -> None:
    """Call ``function(first, last)`` for each pair of neighbours in ``bounds``, in parallel."""
    parts = [(a, b) for a, b in itertools.pairwise(bounds) if a < b]
    if not parts:
        return
    # The kernels release the interpreter's lock; the last part is this thread's own.
    others = [_pool().submit(function, *part) for part in parts[:-1]]
    try:
        function(*parts[-1])
    finally:
        for other in others:
            other.result()


def equal_work(starts: np.ndarray, n: int) -> list[int]:
    """Bounds of ``n`` runs of rows with about equally many connections.

    Args:
        starts: (n_rows + 1,) where each row's connections start.
        n: Number of runs.
    """
    n_rows = len(starts) - 1
    if n == 1:
        return [0, n_rows]
    shares = np.arange(1, n) * (int(starts[-1]) / n)
    return [0, *np.searchsorted(starts, shares).tolist(), n_rows]


def equal_runs(n_items: int, n: int, step: int) -> list[int]:
    """Bounds of at most ``n`` runs of about equal length, at multiples of ``step``."""
    n_steps = -(-n_items // step)
    return [min(n_items, n_steps * i // n * step) for i in range(n)] + [n_items]
