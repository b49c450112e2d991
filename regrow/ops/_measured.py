"""``backend="auto"`` by measurement: the back ends that can run are timed once, and remembered.

What is faster depends on shape, batch and sparsity, so that is what a time is remembered by, in
steps of two for batches and of the square root of two for the share of connections: a topology that
becomes much sparser is timed anew. Times are kept on disk, since measuring takes some steps' time;
another machine, thread count, torch or numba asks again.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from regrow._replacing import replacing
from regrow.ops._dispatch import asked, available_backends

LEAST_FLOPS = 4_000_000
"""Below so much work in a product the first back end runs: calls cost more than what they do."""
MARGIN = 1.25
"""A later back end must be so much faster than the first to be chosen: times are noisy, and results
of two back ends differ in their last bits."""
ROUNDS = 3

_log = logging.getLogger(__name__)
_known: dict[str, str] = {}


def cache_file() -> Path:
    """Where times are kept: ``REGROW_CACHE_DIR``, or the user's cache folder."""
    folder = os.environ.get("REGROW_CACHE_DIR")
    if folder is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = str(Path(home) / "regrow")
    return Path(folder) / "backends.json"


def fastest(
    operation: str,
    shape: Sequence[int],
    *,
    nnz: int,
    n_batch: int,
    device: torch.device,
    dtype: torch.dtype,
    step: Callable[[str], object],
) -> str | None:
    """The back end that ``"auto"`` stands for; None where there is nothing to choose.

    Args:
        operation: What is done, with all that its time depends on and that follows not from here.
        shape: Of the weight.
        nnz: Connections.
        n_batch: Samples, or places that the weight is applied to.
        device: Of the tensors.
        dtype: Of the tensors.
        step: (back end) -> does the operation and its gradients once.
    """
    if 2 * nnz * n_batch < LEAST_FLOPS or torch.compiler.is_compiling() or asked() != "auto":
        return None
    able = [name for name in available_backends(device, dtype) if name != "reference"]
    if len(able) < 2:
        return None
    density = round(2 * math.log2(max(nnz, 1) / math.prod(shape)))
    key = (
        f"{operation} {'x'.join(map(str, shape))} batch {n_batch.bit_length()} density {density} "
        f"{dtype} {device} threads {torch.get_num_threads()}"
    )
    if not _known:
        _known.update(_read())
    if key not in _known:
        _known[key] = _measure(able, step)
        _log.info("%s: %s", key, _known[key])
        _write()
    return _known[key] if _known[key] in able else None


def _measure(able: Sequence[str], step: Callable[[str], object]) -> str:
    for name in able:
        step(name)  # compiles, and warms the caches
    seconds = dict.fromkeys(able, math.inf)
    for _ in range(ROUNDS):
        for name in able:
            started = time.perf_counter()
            step(name)
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    best = min(able, key=seconds.__getitem__)
    return best if seconds[best] * MARGIN < seconds[able[0]] else able[0]


@functools.cache
def _machine() -> str:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numba")]
    return ", ".join([platform.processor() or platform.machine(), str(os.cpu_count()), *versions])


def _read() -> dict[str, str]:
    """What is on disk of this machine; nothing where there is none, or it cannot be read."""
    try:
        found = json.loads(cache_file().read_text(encoding="utf-8"))
        mine = found[_machine()]
        return {key: name for key, name in mine.items() if isinstance(name, str)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.debug("no times of back ends to read: %s", error)
        return {}


def _write() -> None:
    """Add what is known to the file."""
    path = cache_file()
    try:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        machines = found if isinstance(found, dict) else {}
        machines[_machine()] = _known
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(machines, indent=1, sort_keys=True), encoding="utf-8")
    except OSError as error:
        # Measuring again next time is all that is lost.
        _log.info("times of back ends are not kept: %s", error)
