"""Seconds and bytes of a training step against the number of connections, 1e5 to 1e8.

    python benchmarks/training/truly_sparse_scale.py --data-dir DIR            # up to 1e7
    python benchmarks/training/truly_sparse_scale.py --data-dir DIR --largest 1e8

Networks 784-n-n-10 on MNIST with 45, 50 and 5 % of the connections in their three layers, and
n = connections / 10: the largest has 20 million neurons. Each trains with SGD and momentum on
batches of 16, with one SET rewiring; nothing of the dense size (which would be 400 terabytes) is
ever allocated. Held bytes are those of all tensors that live between two steps and did not before:
values, gradients, momentum, indices, biases. Large pages are asked for, unless THP_MEM_ALLOC_ENABLE
says otherwise.
"""

from __future__ import annotations

import os

# Activations of hundreds of megabytes are read at random: with pages of 4 kB the largest step takes
# twice as long. (torch reads this once, when it first allocates.)
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import argparse
import csv
import itertools
import platform
import resource
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[1]))

from memory import live_bytes

import regrow
from regrow.data import load
from regrow.nn import SparseLinear

BATCH = 16
SHARES = (0.45, 0.5, 0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--smallest", type=float, default=1e5)
    parser.add_argument("--largest", type=float, default=1e7)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--csv", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {machine}, {torch.get_num_threads()} threads")
    x, y = images(options.data_dir)
    header = ["connections", "neurons", "seconds_a_step", "seconds_a_rewiring", "held_bytes"]
    header.append("peak_bytes_of_process")
    rows = [[*header, "first_loss", "last_loss"]]
    n = options.smallest
    while n <= options.largest * 1.001:
        rows.append(run(round(n), x, y, options))
        print(dict(zip(rows[0], rows[-1], strict=True)), flush=True)
        n *= 10
    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file).writerows(rows)


def images(folder: Path) -> tuple[Tensor, Tensor]:
    data = load("mnist", folder)
    pixels = torch.from_numpy(data.train_images[:4096, 2:-2, 2:-2, 0]).float().div_(255)
    return pixels.reshape(len(pixels), -1).sub_(0.13).div_(0.31), torch.from_numpy(
        data.train_labels[:4096]
    ).long()


def network(n_connections: int) -> nn.Sequential:
    n = n_connections // 10
    sizes = (784, n, n, 10)
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        sparsity = 1 - SHARES[i] * n_connections / (n_in * n_out)
        layers.append(SparseLinear(n_in, n_out, sparsity=sparsity, seed=i))
        if i < len(sizes) - 2:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def run(n_connections: int, x: Tensor, y: Tensor, options: argparse.Namespace) -> list[object]:
    before = live_bytes()
    net = network(n_connections)
    # The step of the outputs grows with the number of their inputs.
    lr = options.lr * min(1.0, 5e4 / (SHARES[2] * n_connections))
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9)
    middle = options.steps // 2
    updater = regrow.set_training(
        net, optimizer, sparsity=None, n_steps=2 * middle + 1, interval=middle, stop_at=0.6
    )
    losses, seconds = [], []
    for i in range(options.steps):
        rows = slice(i * BATCH, (i + 1) * BATCH)
        started = time.perf_counter()
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
        losses.append(float(loss.detach()))
        del loss  # and with it the activations
    held = live_bytes() - before
    rewirings = [record.step - 1 for record in updater.history]
    plain = min(s for i, s in enumerate(seconds) if i not in rewirings and i > 0)
    rewiring = min(seconds[i] for i in rewirings) - plain
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    n_neurons = sum(m.in_features for m in net if isinstance(m, SparseLinear)) + 10
    last = sum(losses[-3:]) / 3
    return [updater.nnz, n_neurons, plain, rewiring, held, peak, losses[0], last]


if __name__ == "__main__":
    main()
