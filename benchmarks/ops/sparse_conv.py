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
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[1]))

import in_turn
from in_turn import Run, step

from regrow.ops import CSR, sparse_conv, to_dense
from regrow.topology import derived_generator, random_topology

SPARSITIES = (0.8, 0.9, 0.95)
PARTS = ("forward", "input gradient", "value gradient", "step")


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


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    shapes = [shape for name in arguments.shapes for shape in SHAPES[name]]
    shapes, batch, repeats, sparsities = (
        (QUICK, 3, 2, (0.5, 0.9))
        if arguments.quick
        else (shapes, arguments.batch, arguments.repeats, arguments.sparsities)
    )
    rows = []
    print(
        "in  out  size kernel stride  sparsity part      dense min/med ms  sparse min/med ms  ratio"
    )
    for shape in shapes:
        for sparsity in sparsities:
            for part, sides in runs(shape, batch, sparsity, arguments.backend).items():
                if part not in arguments.parts:
                    continue
                times = in_turn.timed(sides, repeats=repeats, clock=arguments.clock)
                (low, middle), (best, typical) = times.values()
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
    parser.add_argument("--quick", action="store_true", help="small shapes, two repeats")
    in_turn.add_options(parser, repeats=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(in_turn.environment(backend=arguments.backend, clock=arguments.clock))
    in_turn.write_csv(arguments.csv, measure(arguments))


if __name__ == "__main__":
    main()
