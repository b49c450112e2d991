"""Whole training steps of ResNet-18 (CIFAR form), truly sparse against dense, in one process.

    python benchmarks/training/truly_sparse_resnet.py                    # 90 %, batch 128
    python benchmarks/training/truly_sparse_resnet.py --sparsities 0.8 0.95 --threads 2
    python benchmarks/training/truly_sparse_resnet.py --quick            # narrow and small, for CI

A step is the forward pass, cross entropy, the backward pass and a step of SGD with momentum and
weight decay, on images of 32 x 32. The first convolution stays dense, as in RigL's uniform
distribution (Evci et al. 2020, section 3.1); every other convolution, those of the shortcuts
included, and the linear layer at the end get the same sparsity. Batch norm and biases are dense.

Before anything is timed the truly sparse network is compared with the dense one that has the same
weights, zeros included: outputs, the gradient of the images, and the gradients of all connections.
The sides take turns; printed are minimum and median in milliseconds, and the ratio dense / sparse.
``--clock cpu`` counts processor time instead of the clock on the wall, which a machine that is
shared needs (with one thread: with more it adds them up).
``benchmarks/ops/sparse_conv.py`` has the layers one by one.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[1]))

import in_turn

import regrow
from regrow.models import resnet18
from regrow.nn import SparseModule, densify_

CLASSES = 10
QUICK = {"width": (16, 16, 24, 32), "batch": 4, "repeats": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.9])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--convert", choices=("all", "faster"), default="all", help="of compress_")
    parser.add_argument("--quick", action="store_true", help="a narrow network, two repeats")
    in_turn.add_options(parser, repeats=10)
    parser.set_defaults(backend="auto")
    options = parser.parse_args()
    options.width = (64, 128, 256, 512)
    if options.quick:
        vars(options).update(QUICK)
    torch.set_num_threads(options.threads)
    print(in_turn.environment(backend=options.backend, clock=options.clock))
    print("ResNet-18, first convolution dense; the others, shortcuts and the linear layer sparse")
    print("sparsity  counted  batch  dense min/med ms   sparse min/med ms  ratio")
    rows = [measure(sparsity, options) for sparsity in options.sparsities]
    in_turn.write_csv(options.csv, rows)


class Side:
    """A network with its optimizer."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)

    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.net(x), y).backward()
        self.optimizer.step()


def measure(sparsity: float, options: argparse.Namespace) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(options.batch, 3, 32, 32, generator=generator)
    y = torch.randint(CLASSES, (options.batch,), generator=generator)
    sparse, counted = compressed(sparsity, x, options)
    dense = Side(network(options.width))
    check(sparse, x, y)
    sides = {"dense": dense, "sparse": Side(sparse)}
    times = in_turn.timed(
        {name: lambda side=side: side.step(x, y) for name, side in sides.items()},
        repeats=options.repeats,
        warm_up=2,
        clock=options.clock,
    )
    (low, middle), (best, typical) = times.values()
    print(
        f"{sparsity:<8g}  {counted:.4f}  {options.batch:<5}  {low:8.1f} {middle:8.1f}  "
        f"{best:9.1f} {typical:8.1f}  {low / best:6.2f}",
        flush=True,
    )
    return (
        {"sparsity": sparsity, "counted": counted, "batch": options.batch}
        | {"threads": torch.get_num_threads(), "backend": options.backend}
        | {"dense_min_ms": low, "dense_median_ms": middle}
        | {"min_ms": best, "median_ms": typical, "ratio": low / best}
    )


def network(width: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    return resnet18(CLASSES, width=width)


def compressed(sparsity: float, x: Tensor, options: argparse.Namespace) -> tuple[nn.Module, float]:
    """The truly sparse network, and the sparsity over all its convolutions and the linear layer."""
    net = network(options.width)
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))

    def all_but_the_first(name: str, module: nn.Module, parameter: nn.Parameter) -> bool:
        return module is not first and regrow.default_weights(name, module, parameter)

    topologies = regrow.compress_(
        net,
        sparsity=sparsity,
        allocation=regrow.uniform(),
        select=all_but_the_first,
        inputs=x,
        convert=options.convert,
    )
    for module in net.modules():
        if isinstance(module, SparseModule):
            module.backend = options.backend
    n_elements = sum(one.n_elements for one in topologies.values()) + first.weight.numel()
    nnz = sum(one.nnz for one in topologies.values()) + first.weight.numel()
    return net, 1 - nnz / n_elements


def check(sparse: nn.Module, x: Tensor, y: Tensor) -> None:
    """Compare with the dense network of the same weights; ``sparse`` is left as it was.

    In float64 and float32: in the latter a rectifier near zero may go either way, and through 18
    layers gradients show it.
    """
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-2)):
        some = x[:16].to(dtype), y[:16]
        found = copy.deepcopy(sparse).to(dtype)
        compare(found, densify_(copy.deepcopy(found)), *some, tolerance)


def compare(found: nn.Module, masked: nn.Module, x: Tensor, y: Tensor, tolerance: float) -> None:
    outputs, images = [], []
    for net in (masked, found):
        images.append(x.clone().requires_grad_())
        outputs.append(net(images[-1]))
        F.cross_entropy(outputs[-1], y).backward()
    close(outputs[1].detach(), outputs[0].detach(), "outputs", tolerance)
    close(images[1].grad, images[0].grad, "gradient of the images", tolerance)
    of_masked = dict(masked.named_modules())
    for name, module in found.named_modules():
        if isinstance(module, SparseModule):
            expected = of_masked[name].weight.grad.reshape(-1)[module.topology.indices]
            close(module.values.grad, expected, f"gradient of {name}", tolerance)


def close(found: Tensor, expected: Tensor, what: str, tolerance: float) -> None:
    off = float((found - expected).norm() / expected.norm())
    if not off <= tolerance:
        sys.exit(f"{what}: off by {off:.1e} of the norm")


if __name__ == "__main__":
    main()
