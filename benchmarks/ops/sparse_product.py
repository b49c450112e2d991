"""Sparse linear layers against dense ones in the same process: forward, gradients, whole step.

    python benchmarks/ops/sparse_product.py                     # all shapes, all sparsities
    python benchmarks/ops/sparse_product.py --threads 2 --csv out.csv
    python benchmarks/ops/sparse_product.py --parts step --rivals csr sparselab
    python benchmarks/ops/sparse_product.py --quick             # a small shape, for CI

Input and output gradient are contiguous and batch-first, as from dense neighbours. Results are
checked against the dense product before anything is timed. All sides take turns; of each baseline
(dense, or a rival) and of the sparse layer minimum and median are printed in milliseconds, and the
ratio baseline / sparse of the minima. ``--clock cpu`` counts processor time instead of the clock on
the wall, which a machine that is shared needs (with one thread: with more it adds them up).

``--rivals`` take part in whole steps: ``csr`` is torch's own sparse tensor, ``sparselab`` the layer
of that name on PyPI, which is left out, and said to be, where it is not installed.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[1]))

import in_turn
import rivals
from in_turn import Run, step

from regrow.ops import CSR, sampled_product, sparse_linear, to_dense
from regrow.ops import transposed_product as multiply_transposed
from regrow.topology import derived_generator, random_topology

SHAPES = Path(__file__).with_name("shapes.csv")
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.99)
PARTS = ("forward", "input gradient", "value gradient", "step")
QUICK = {"name": "quick", "n_in": 96, "n_out": 64, "batch": 20}


def shapes(path: Path) -> list[dict[str, str | int]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    numbers = ("n_in", "n_out", "batch")
    return [{"name": row["name"], **{key: int(row[key]) for key in numbers}} for row in rows]


def runs(
    case: dict[str, int], sparsity: float, backend: str, others: list[str]
) -> dict[str, dict[str, Run]]:
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
            lambda: step(
                lambda: sparse_linear(values, layout, x, backend=backend), (x, values), dy
            ),
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
    sides = {part: {"dense": pair[0], backend: pair[1]} for part, pair in functions.items()}
    for name in others:
        sides["step"][name] = rivals.RIVALS[name](layout, v, plain, dy)
    return sides


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    cases = [QUICK] if arguments.quick else shapes(arguments.shapes)
    repeats = 2 if arguments.quick else arguments.repeats
    sparsities = (0.5, 0.9) if arguments.quick else arguments.sparsities
    others = rivals.present(list(rivals.RIVALS) if arguments.quick else arguments.rivals)
    rows = []
    print("shape         sparsity part            dense min/med ms   sparse min/med ms  ratio")
    for case in cases:
        for sparsity in sparsities:
            for part, sides in runs(case, sparsity, arguments.backend, others).items():
                if part not in arguments.parts:
                    continue
                times = in_turn.timed(sides, repeats=repeats, clock=arguments.clock)
                best, typical = times.pop(arguments.backend)
                for baseline, (low, middle) in times.items():
                    label = part if baseline == "dense" else f"{part}, {baseline}"
                    print(
                        f"{case['name']:<14}{sparsity:<8g} {label:<15} {low:8.3f} {middle:8.3f}  "
                        f"{best:9.3f} {typical:8.3f}  {low / best:6.2f}",
                        flush=True,
                    )
                    rows.append(
                        {**case, "sparsity": sparsity, "part": part, "backend": arguments.backend}
                        | {"threads": torch.get_num_threads(), "baseline": baseline}
                        | {"baseline_min_ms": low, "baseline_median_ms": middle}
                        | {"min_ms": best, "median_ms": typical, "ratio": low / best}
                    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", type=Path, default=SHAPES, help="CSV: name,n_in,n_out,batch")
    parser.add_argument("--sparsities", type=float, nargs="+", default=SPARSITIES)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rivals", nargs="+", choices=rivals.RIVALS, default=[])
    parser.add_argument("--quick", action="store_true", help="one small shape, two repeats")
    in_turn.add_options(parser, repeats=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(in_turn.environment(backend=arguments.backend, clock=arguments.clock))
    in_turn.write_csv(arguments.csv, measure(arguments))


if __name__ == "__main__":
    main()
