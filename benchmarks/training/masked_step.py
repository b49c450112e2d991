"""Cost of masked training and of one rewiring, as ratios to dense training in the same process.

    python benchmarks/training/masked_step.py            # ResNet-18 on CIFAR-sized batches
    python benchmarks/training/masked_step.py --device cuda --steps 200
    python benchmarks/training/masked_step.py --rewiring # one RigL rewiring of ResNet-50 at 0.9

The dense and the sparse step run in turn. With a rewiring every 100 steps its cost is spread over
100: step + rewiring / 100. Both sides are printed, minimum and median. Sharing the machine makes
single numbers noisy; the ratio of interleaved minima is what to quote.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import regrow
from regrow.models import resnet18

INTERVAL = 100
REPEATS = 5
METHODS = {"rigl": regrow.rigl, "set": regrow.set_training}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of either side")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--rewiring", action="store_true", help="time one rewiring of ResNet-50")
    parser.add_argument("--csv", type=Path, help="append the figures to this file")
    options = parser.parse_args()
    where = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    if options.device == "cuda":
        where = torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {where}")
    rows = rewiring_cost(options) if options.rewiring else step_cost(options)
    if options.csv:
        with options.csv.open("a", newline="") as file:
            versions = [regrow.__version__, torch.__version__, where]
            csv.writer(file).writerows([*versions, *row] for row in rows)


class Side:
    """One model with its optimizer, stepping on the same batch."""

    def __init__(self, model: nn.Module, device: str, *, weight_decay: float = 5e-4) -> None:
        self.model = model.to(device)
        self.optimizer = torch.optim.SGD(
            model.parameters(), 0.01, momentum=0.9, weight_decay=weight_decay
        )

    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()


def timed(work: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def step_cost(options: argparse.Namespace) -> list[list[object]]:
    device, n = options.device, options.batch_size
    x, y = torch.randn(n, 3, 32, 32, device=device), torch.randint(10, (n,), device=device)
    sides = {name: Side(resnet18(10), device) for name in ("dense", *METHODS)}
    for name, method in METHODS.items():
        # No rewiring falls into the timed steps: its cost is measured alone, and added.
        method(
            sides[name].model,
            sides[name].optimizer,
            sparsity=options.sparsity,
            n_steps=10**6,
            interval=10**5,
            weight_step="before",
        )
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(options.steps + 2):
        for name, side in sides.items():
            took = timed(lambda side=side: side.step(x, y), device)
            if turn >= 2:
                seconds[name].append(took)
    base, base_median = min(seconds["dense"]), statistics.median(seconds["dense"])
    print(
        f"ResNet-18, batch {n}, sparsity {options.sparsity}: seconds a step over {options.steps}, "
        f"with a rewiring every {INTERVAL} steps"
    )
    rows: list[list[object]] = []
    for name, values in seconds.items():
        extra = 0.0
        if name != "dense":
            rewiring = rewiring_seconds(resnet18(10), name, options.sparsity, device)
            extra = rewiring / INTERVAL
        best, middle = min(values) + extra, statistics.median(values) + extra
        print(
            f"  {name:6s} min {best:.4f} ({best / base:.4f} of dense), median {middle:.4f} "
            f"({middle / base_median:.4f}); of it rewiring {extra:.5f}"
        )
        rows.append(["step", name, options.sparsity, n, best, middle, best / base])
    return rows


def rewiring_seconds(model: nn.Module, name: str, sparsity: float, device: str) -> float:
    """One rewiring, decided and applied: with "skip" it is all that the step does."""
    side = Side(model, device)
    updater = METHODS[name](
        side.model,
        side.optimizer,
        sparsity=sparsity,
        n_steps=100,
        interval=1,
        weight_step="skip",
    )
    before, times = updater.nnz, []
    for _ in range(REPEATS):
        for parameter in side.model.parameters():
            parameter.grad = torch.randn_like(parameter)
        times.append(timed(side.optimizer.step, device))
    if updater.rewirings != REPEATS or updater.nnz != before:
        sys.exit("the rewirings that were timed are wrong")
    return min(times)


def rewiring_cost(options: argparse.Namespace) -> list[list[object]]:
    from torchvision.models import resnet50

    rows: list[list[object]] = []
    for name in METHODS:
        took = rewiring_seconds(resnet50(), name, options.sparsity, options.device)
        print(f"ResNet-50, one rewiring of all layers, {name} at {options.sparsity}: {took:.3f} s")
        rows.append(["rewiring", name, options.sparsity, 0, took, took, 0.0])
    return rows


if __name__ == "__main__":
    main()
