"""Sparse convolutions against dense ones in the same process: forward, gradients, whole step.

    python benchmarks/ops/sparse_conv.py                     # all shapes, all sparsities
    python benchmarks/ops/sparse_conv.py --shapes resnet18 --threads 2 --csv out.csv
    python benchmarks/ops/sparse_conv.py --quick             # a small shape, for CI

Input and output gradient are contiguous (B, C, H, W), as from dense neighbours. Results are checked
against the dense convolution before anything is timed. Dense and sparse runs take turns; both sides
are printed, minimum and median in milliseconds, and the ratios dense / sparse of the minima.
``--clock cpu`` counts processor time instead of the clock on the wall, which a machine that is
shared needs (with one thread: with more it adds them up).
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
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from regrow.ops import CSR, available_backends, sparse_conv, to_dense
from regrow.topology import derived_generator, random_topology

SPARSITIES = (0.8, 0.9, 0.95)
PARTS = ("forward", "input gradient", "value gradient", "step")
Run = Callable[[], object]


class Shape(NamedTuple):
    """A square convolution."""

    n_in: int
    n_out: int
    size: int
    kernel: int
    stride: int


SHAPES = {
    # Stages of networks for images of 32 x 32.
    "stages": [Shape(64 << i, 64 << i, 32 >> i, 3, 1) for i in range(4)],
    # What ResNet-18 has beside them: downsampling, and the first convolutions of its stages.
    "resnet18": [
        Shape(64 << i, 128 << i, 32 >> i, *rest) for i in range(3) for rest in ((3, 2), (1, 2))
    ],
    "pointwise": [Shape(64, 256, 16, 1, 1), Shape(512, 2048, 7, 1, 1), Shape(256, 64, 56, 1, 1)],
    "imagenet": [Shape(128, 128, 28, 3, 1), Shape(256, 256, 14, 3, 1), Shape(512, 512, 7, 3, 1)],
}
QUICK = [Shape(6, 8, 9, 3, 1), Shape(6, 8, 9, 1, 2)]


def processor() -> str:
    """The model of the CPU."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def step(forward: Callable[[], Tensor], leaves: tuple[Tensor, ...], dy: Tensor) -> None:
    """Forward and backward, as a layer in the middle of a model does."""
    for leaf in leaves:
        leaf.grad = None
    forward().backward(dy)


def runs(shape: Shape, batch: int, sparsity: float, backend: str) -> dict[str, dict[str, Run]]:
    """Part -> side -> function, with the results checked."""
    n_in, n_out, size, kernel, stride = shape
    padding, n_columns = kernel // 2, n_in * kernel**2
    generator = derived_generator(0, "sparse_conv", *shape, str(sparsity))
    nnz = round(n_out * n_columns * (1 - sparsity))
    topology = random_topology((n_out, n_columns), torch.tensor([nnz]), generator=generator)
    layout = CSR.of(topology)
    values = torch.randn(layout.nnz, generator=generator).div_(n_columns**0.5).requires_grad_()
    dense = to_dense(values.detach(), layout).view(n_out, n_in, kernel, kernel).requires_grad_()
    x = torch.randn(batch, n_in, size, size, generator=generator, requires_grad=True)
    how = {"stride": stride, "padding": padding}

    weights = {"dense": dense, backend: values}

    def convolve(side: str, of: Tensor, weight: Tensor) -> Tensor:
        if side == "dense":
            return F.conv2d(of, weight, **how)
        return sparse_conv(weight, layout, of, kernel_size=(kernel,) * 2, backend=backend, **how)

    y = convolve("dense", x, dense)
    dy = torch.randn(y.shape, generator=generator)
    found = convolve(backend, x, values)
    torch.testing.assert_close(found, y, rtol=1e-3, atol=1e-3)
    dx, entries = torch.autograd.grad(y, (x, dense), dy)
    found_dx, found_entries = torch.autograd.grad(found, (x, values), dy)
    torch.testing.assert_close(found_dx, dx, rtol=1e-3, atol=1e-3)
    entries = entries.reshape(-1)[layout.positions]
    # (They are sums over all samples and pixels.)
    scale = float(entries.abs().max()) if layout.nnz else 1.0
    torch.testing.assert_close(found_entries, entries, rtol=1e-3, atol=1e-4 * scale)

    def forward(side: str) -> Run:
        return lambda: convolve(side, x.detach(), weights[side].detach())

    def input_gradient(side: str) -> Run:
        y = convolve(side, x, weights[side].detach())
        return lambda: torch.autograd.grad(y, x, dy, retain_graph=True)

    def value_gradient(side: str) -> Run:
        y = convolve(side, x.detach(), weights[side])
        return lambda: torch.autograd.grad(y, weights[side], dy, retain_graph=True)

    def whole(side: str) -> Run:
        leaves = (x, weights[side])
        return lambda: step(lambda: convolve(side, *leaves), leaves, dy)

    parts = (forward, input_gradient, value_gradient, whole)
    return {
        name: {side: part(side) for side in weights}
        for name, part in zip(PARTS, parts, strict=True)
    }


def timed(sides: dict[str, Run], *, repeats: int, clock: Callable[[], float]) -> dict[str, list]:
    """Milliseconds of each side, in turn."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, function in sides.items():
            start = clock()
            function()
            times[side].append((clock() - start) * 1e3)
    return times


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    shapes = [shape for name in arguments.shapes for shape in SHAPES[name]]
    shapes, batch, repeats, sparsities = (
        (QUICK, 3, 2, (0.5, 0.9))
        if arguments.quick
        else (shapes, arguments.batch, arguments.repeats, arguments.sparsities)
    )
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    rows = []
    print(
        "in  out  size kernel stride  sparsity part      dense min/med ms  sparse min/med ms  ratio"
    )
    for shape in shapes:
        for sparsity in sparsities:
            for part, sides in runs(shape, batch, sparsity, arguments.backend).items():
                if part not in arguments.parts:
                    continue
                times = timed(sides, repeats=repeats, clock=clock)
                (low, middle), (best, typical) = (
                    (min(some), statistics.median(some)) for some in times.values()
                )
                sizes = "".join(f"{number:<5}" for number in shape)
                print(
                    f"{sizes}{sparsity:<6g} {part:<15} {low:8.2f} {middle:8.2f}  "
                    f"{best:8.2f} {typical:8.2f}  {low / best:6.2f}",
                    flush=True,
                )
                rows.append(
                    {**shape._asdict(), "batch": batch, "sparsity": sparsity, "part": part}
                    | {"backend": arguments.backend, "threads": torch.get_num_threads()}
                    | {"dense_min_ms": low, "dense_median_ms": middle}
                    | {"min_ms": best, "median_ms": typical, "ratio": low / best}
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES)[:2])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--sparsities", type=float, nargs="+", default=SPARSITIES)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--backend", default=available_backends("cpu", torch.float32)[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--csv", type=Path, help="write the rows there")
    parser.add_argument("--quick", action="store_true", help="small shapes, two repeats")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{processor()}, {arguments.threads} threads, torch {torch.__version__}, float32, "
        f"back end {arguments.backend}, {arguments.clock} clock, Python {sys.version.split()[0]}"
    )
    rows = measure(arguments)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
