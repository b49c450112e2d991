"""Sparse linear layers against dense ones in the same process: forward, gradients, whole step.

    python benchmarks/ops/sparse_product.py                     # all shapes, all sparsities
    python benchmarks/ops/sparse_product.py --threads 2 --csv out.csv
    python benchmarks/ops/sparse_product.py --quick             # a small shape, for CI

Input and output gradient are contiguous and batch-first, as from dense neighbours. Results are
checked against the dense product before anything is timed. Dense and sparse runs take turns; both
sides are printed, minimum and median in milliseconds, and the ratios dense / sparse of the minima.
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

import torch
from torch import Tensor
from torch.nn import functional as F

from regrow.ops import CSR, available_backends, sampled_product, sparse_linear, to_dense
from regrow.ops import transposed_product as multiply_transposed
from regrow.topology import derived_generator, random_topology

SHAPES = Path(__file__).with_name("shapes.csv")
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.99)
PARTS = ("forward", "input gradient", "value gradient", "step")
QUICK = {"name": "quick", "n_in": 96, "n_out": 64, "batch": 20}
Run = Callable[[], object]


def processor() -> str:
    """The model of the CPU."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def shapes(path: Path) -> list[dict[str, str | int]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    numbers = ("n_in", "n_out", "batch")
    return [{"name": row["name"], **{key: int(row[key]) for key in numbers}} for row in rows]


def step(forward: Callable[[], Tensor], leaves: tuple[Tensor, ...], dy: Tensor) -> None:
    """Forward and backward, as a layer in the middle of a model does."""
    for leaf in leaves:
        leaf.grad = None
    forward().backward(dy)


def runs(case: dict[str, int], sparsity: float, backend: str) -> dict[str, dict[str, Run]]:
    """Part -> side -> function, with the results checked."""
    n_in, n_out, batch = case["n_in"], case["n_out"], case["batch"]
    generator = derived_generator(0, "sparse_product", n_in, n_out, str(sparsity))
    nnz = round(n_in * n_out * (1 - sparsity))
    topology = random_topology((n_out, n_in), torch.tensor([nnz]), generator=generator)
    layout = CSR.of(topology)
    values = torch.randn(layout.nnz, generator=generator, requires_grad=True)
    dense = to_dense(values.detach(), layout).requires_grad_()
    x = torch.randn(batch, n_in, generator=generator, requires_grad=True)
    dy = torch.randn(batch, n_out, generator=generator)
    w, v, plain = dense.detach(), values.detach(), x.detach()

    def sparse_forward() -> Tensor:
        return sparse_linear(values, layout, x, backend=backend)

    functions = {
        "forward": (
            lambda: F.linear(plain, w),
            lambda: sparse_linear(v, layout, plain, backend=backend),
        ),
        "input gradient": (
            lambda: dy @ w,
            lambda: multiply_transposed(v, layout, dy, backend=backend),
        ),
        "value gradient": (
            lambda: dy.t() @ plain,
            lambda: sampled_product(layout, dy, plain, backend=backend),
        ),
        "step": (
            lambda: step(lambda: F.linear(x, dense), (x, dense), dy),
            lambda: step(sparse_forward, (x, values), dy),
        ),
    }
    for part in PARTS[:2]:
        expected, found = functions[part][0](), functions[part][1]()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    expected = functions["value gradient"][0]().reshape(-1)[layout.positions]
    torch.testing.assert_close(functions["value gradient"][1](), expected, rtol=1e-3, atol=1e-3)
    functions["step"][1]()
    torch.testing.assert_close(values.grad, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(x.grad, dy @ w, rtol=1e-3, atol=1e-3)
    return {part: {"dense": pair[0], backend: pair[1]} for part, pair in functions.items()}


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
    cases = [QUICK] if arguments.quick else shapes(arguments.shapes)
    repeats = 2 if arguments.quick else arguments.repeats
    sparsities = (0.5, 0.9) if arguments.quick else arguments.sparsities
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    rows = []
    print("shape         sparsity part            dense min/med ms   sparse min/med ms  ratio")
    for case in cases:
        for sparsity in sparsities:
            for part, sides in runs(case, sparsity, arguments.backend).items():
                times = timed(sides, repeats=repeats, clock=clock)
                (low, middle), (best, typical) = (
                    (min(some), statistics.median(some)) for some in times.values()
                )
                print(
                    f"{case['name']:<14}{sparsity:<8g} {part:<15} {low:8.3f} {middle:8.3f}  "
                    f"{best:9.3f} {typical:8.3f}  {low / best:6.2f}"
                )
                rows.append(
                    {**case, "sparsity": sparsity, "part": part, "backend": arguments.backend}
                    | {"threads": torch.get_num_threads(), "dense_min_ms": low}
                    | {"dense_median_ms": middle, "min_ms": best, "median_ms": typical}
                    | {"ratio": low / best}
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", type=Path, default=SHAPES, help="CSV: name,n_in,n_out,batch")
    parser.add_argument("--sparsities", type=float, nargs="+", default=SPARSITIES)
    parser.add_argument("--backend", default=available_backends("cpu", torch.float32)[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--csv", type=Path, help="write the rows there")
    parser.add_argument("--quick", action="store_true", help="one small shape, two repeats")
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
