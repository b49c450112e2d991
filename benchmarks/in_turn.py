"""What the benchmarks share: sides timed in turn in one process, and how figures are written."""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from regrow.ops import available_backends

Run = Callable[[], object]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Times(NamedTuple):
    """Milliseconds of one side."""

    least: float
    median: float


def timed(
    sides: Mapping[str, Run], *, repeats: int, warm_up: int = 0, clock: str = "wall"
) -> dict[str, Times]:
    """Milliseconds of each side, all of them in turn.

    Args:
        sides: Name -> what is timed.
        repeats: How often each is timed.
        warm_up: Rounds before these.
        clock: "wall", or "cpu": processor time, which a machine that is shared needs (with one
            thread: with more it adds them up).
    """
    now = CLOCKS[clock]
    milliseconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(warm_up + repeats):
        for side, function in sides.items():
            start = now()
            function()
            if turn >= warm_up:
                milliseconds[side].append((now() - start) * 1e3)
    return {name: Times(min(one), statistics.median(one)) for name, one in milliseconds.items()}


def step(forward: Callable[[], Tensor], leaves: Sequence[Tensor], dy: Tensor) -> None:
    """Forward and backward, as a layer in the middle of a model does."""
    for leaf in leaves:
        leaf.grad = None
    forward().backward(dy)


def processor() -> str:
    """The model of the CPU."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def environment(*, backend: str | None = None, clock: str = "wall") -> str:
    """What the figures were measured on, in one line."""
    kernels = "" if backend is None else f"back end {backend}, "
    return (
        f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32, "
        f"{kernels}{clock} clock, Python {sys.version.split()[0]}"
    )


def add_options(parser: argparse.ArgumentParser, *, repeats: int) -> None:
    """The options of all that times in turn."""
    parser.add_argument("--backend", default=available_backends("cpu", torch.float32)[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--csv", type=Path, help="write the rows there")


def write_csv(path: Path | None, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows with the same keys, if a file is named."""
    if path is None:
        return
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
