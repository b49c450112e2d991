"""Bytes that one rewiring needs for a time, above those held between steps, a connection.

    python benchmarks/training/rewiring_memory.py
    python benchmarks/training/rewiring_memory.py --methods rigl --drop-fraction 0.5
    python benchmarks/training/rewiring_memory.py --quick               # small layers, for CI

Networks: SET's MLP for CIFAR-10 (3072-4000-1000-4000-10, epsilon 20; Mocanu et al. 2018) and one
layer of 4096 x 4096 at 90 %, truly sparse from the start, SGD with momentum. Watched is the
optimizer step on which all layers rewire: the most that torch's allocator, and Python with numpy,
hold at a time above what they held before it, each over the connections of the largest layer. The
two need not come together: the whole lies between the larger one and the sum. Bytes do not depend
on how busy the machine is.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[1]))

import in_turn
from memory import Peak, peak_above_held

import regrow
from regrow.nn import SparseLinear

EPSILON = 20
METHODS = {"set": regrow.set_training, "rigl": regrow.rigl}
NETWORKS: dict[str, tuple[tuple[int, ...], float | None]] = {
    "set-mlp": ((3072, 4000, 1000, 4000, 10), None),
    "4096": ((4096, 4096), 0.9),
}
QUICK: dict[str, tuple[tuple[int, ...], float | None]] = {
    "quick": ((600, 500, 400), 0.8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--drop-fraction", type=float, default=0.3)
    parser.add_argument("--weight-step", choices=("before", "after", "skip"), help="of the method")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--quick", action="store_true", help="one small network")
    parser.add_argument("--csv", type=Path, help="write the rows there")
    options = parser.parse_args()
    print(in_turn.environment())
    given = {} if options.weight_step is None else {"weight_step": options.weight_step}
    networks = QUICK if options.quick else {name: NETWORKS[name] for name in options.networks}
    print("network   method   largest layer   torch   Python, numpy   (bytes a connection of it)")
    rows = []
    for name, (sizes, sparsity) in networks.items():
        for method in options.methods:
            given["drop_fraction"] = options.drop_fraction
            peak, largest = measured(sizes, sparsity, method, batch=options.batch, **given)
            torchs, others = (n_bytes / largest for n_bytes in peak)
            print(f"{name:<9} {method:<8} {largest:<12}  {torchs:8.2f}  {others:8.2f}", flush=True)
            rows.append(
                {"network": name, "method": method, "largest": largest}
                | {"torch_bytes": peak.torch, "python_bytes": peak.python}
            )
    in_turn.write_csv(options.csv, rows)


def measured(
    sizes: tuple[int, ...], sparsity: float | None, method: str, *, batch: int, **options: object
) -> tuple[Peak, int]:
    """The peak of one rewiring, and the connections of the largest layer."""
    nets: list[nn.Sequential] = []
    peak = peak_above_held(partial(_at_rewiring, nets, sizes, sparsity, method, batch, options))
    return peak, max(m.nnz for m in nets[0] if isinstance(m, SparseLinear))


def network(sizes: tuple[int, ...], sparsity: float | None) -> nn.Sequential:
    """Layers of one sparsity, or None: of SET's."""
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        of_set = max(0.0, 1 - EPSILON * (n_in + n_out) / (n_in * n_out))
        wanted = of_set if sparsity is None else sparsity
        layers += [SparseLinear(n_in, n_out, sparsity=wanted, seed=i), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _at_rewiring(
    nets: list[nn.Sequential],
    sizes: tuple[int, ...],
    sparsity: float | None,
    method: str,
    batch: int,
    options: dict[str, object],
) -> Callable[[], object]:
    """Train up to the backward pass of the second step that rewires; kernels are compiled then."""
    torch.manual_seed(0)
    net = network(sizes, sparsity)
    nets.append(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    updater = METHODS[method](
        net, optimizer, sparsity=None, n_steps=100, interval=2, stop_at=1.0, **options
    )
    x = torch.randn(batch, sizes[0])

    def passes() -> None:
        optimizer.zero_grad()
        net(x).square().mean().backward()

    for _ in range(3):
        passes()
        optimizer.step()
    passes()

    def rewire() -> None:
        optimizer.step()
        if updater.rewirings != 2:
            sys.exit("what was watched did not rewire")

    return rewire


if __name__ == "__main__":
    main()
