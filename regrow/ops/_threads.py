"""Work on as many threads as torch uses: on torch's own threads, where it uses OpenMP's.

Threads of our own would have to be woken for every product, and to share the processors with those
of OpenMP, which spin while they wait for work: at a tenth of a millisecond a product either costs
half the speed. So work is handed to the OpenMP that torch has loaded, as its own operations are.
Where there is none, and in forked children, which OpenMP's threads do not follow, a pool of Python
threads does it, slower.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from regrow.ops._parts import Part, block_of

SERIAL_FLOPS = 1_000_000
"""Work below which one thread is faster than waking another."""

_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_pools: dict[int, Executor] = {}
"""Process id -> its pool. A forked child inherits the dictionary, but not its parent's threads."""
_started_as = os.getpid()


def _pool() -> Executor:
    pid = os.getpid()
    if pid not in _pools:
        # Threads start when they are first needed, so that the limit costs nothing.
        _pools[pid] = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="regrow")
    return _pools[pid]


@functools.cache
def _openmp() -> Any:  # noqa: ANN401 - ctypes' function
    """``GOMP_parallel`` of the library that torch runs on, or None."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        # Looks among what the library was linked with, too.
        function = ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError):
        return None
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    return function


def uses_openmp() -> bool:
    """Whether this process runs on torch's threads."""
    return os.getpid() == _started_as and _openmp() is not None


@final
class Task:
    """A compiled function of one pointer, called without the interpreter's lock.

    Args:
        compiled: With an ``address``, which is valid as long as it lives.
    """

    def __init__(self, compiled: Any) -> None:  # noqa: ANN401 - numba is untyped
        self._compiled = compiled
        self.address: int = compiled.address
        self.call = _FUNCTION(self.address)


def n_parts(n_flops: int) -> int:
    """Into how many parts to split so much work."""
    return torch.get_num_threads() if n_flops > SERIAL_FLOPS else 1


def run_task(task: Task, parts: list[Part], n: int) -> None:
    """Call a task on ``n`` threads at once; they share its units of work.

    Args:
        task: Takes the address of a block.
        parts: What the block is made of.
        n: Number of threads.
    """
    block = block_of(parts)
    if n == 1:
        task.call(block)
    elif uses_openmp():
        _openmp()(task.address, block, n, 0)
    else:
        _on_pool(lambda: task.call(block), n)


def run(function: Callable[[int, int], object], bounds: Sequence[int]) -> None:
    """Call ``function(first, last)`` for each pair of neighbours in ``bounds``, in parallel.

    For functions that release the interpreter's lock while they work.
    """
    parts = [(a, b) for a, b in itertools.pairwise(bounds) if a < b]
    if len(parts) < 2:
        for part in parts:
            function(*part)
        return
    left, errors = iter(parts), list[BaseException]()

    def work(_: object = None) -> None:
        try:
            # (Each part goes to the thread that asks first.)
            for part in left:
                function(*part)
        except BaseException as error:  # noqa: BLE001 - C has no exceptions: raised below
            errors.append(error)

    if uses_openmp():
        _openmp()(_FUNCTION(work), None, len(parts), 0)
    else:
        _on_pool(work, len(parts))
    if errors:
        raise errors[0]


def _on_pool(work: Callable[[], None], n: int) -> None:
    others = [_pool().submit(work) for _ in range(n - 1)]
    try:
        work()
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
