"""SET's MLP on real images, dense, masked and truly sparse: accuracy, seconds, bytes a connection.

    python benchmarks/training/truly_sparse_mlp.py --data-dir DIR --data cifar10 --epochs 10
    python benchmarks/training/truly_sparse_mlp.py --data-dir DIR --data mnist --epochs 5

CIFAR-10: 3072-4000-1000-4000-10; MNIST: 784-1000-1000-1000-10 (Mocanu et al. 2018), ReLU, epsilon
20, SGD with momentum, one rewiring an epoch. Masked and truly sparse runs of one seed start from
the same weights and topology. Times are of whole training steps, the three sides in turn, minimum
and median; accuracies are of whole trainings. Bytes are those of all tensors that live between two
steps and did not before the network was built, gradients, biases and row pointers included, over
the connections. (What a rewiring needs beside them for a time is in ``rewiring_memory.py``.)
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[1]))

from memory import live_bytes

import regrow
from regrow.data import load

SIZES = {"cifar10": (3072, 4000, 1000, 4000, 10), "mnist": (784, 1000, 1000, 1000, 10)}
EPSILON = 20
BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", choices=sorted(SIZES), default="cifar10")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3, help="0: times and bytes only")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each side")
    options = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {machine}, {torch.get_num_threads()} threads")
    train, test = images(options.data, options.data_dir)
    print_bytes(options, train)
    print_times(options, train)
    if options.seeds:
        print_accuracies(options, train, test)


def images(name: str, folder: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Standardised rows of pixels and labels, for training and test."""
    data = load(name, folder)
    sets = []
    for pixels, labels in (
        (data.train_images, data.train_labels),
        (data.test_images, data.test_labels),
    ):
        x = torch.from_numpy(pixels).float().div_(255)
        if name == "mnist":  # (padded to 32 pixels and three equal channels)
            x = x[:, 2:-2, 2:-2, :1]
        sets.append((x.reshape(len(x), -1), torch.from_numpy(labels).long()))
    mean, std = sets[0][0].mean(0), sets[0][0].std(0).clamp_(min=1e-3)
    for x, _ in sets:
        x.sub_(mean).div_(std)
    return sets[0], sets[1]


def network(sizes: tuple[int, ...], seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        linear = nn.Linear(n_in, n_out)
        # He's bound with the inputs that an output really has: by the dense ones signals fade.
        n_inputs = min(n_in, EPSILON * (n_in + n_out) / n_out)
        bound = (6 / n_inputs) ** 0.5
        with torch.no_grad():
            linear.weight.uniform_(-bound, bound)
        layers += [linear, *([nn.ReLU()] if i < len(sizes) - 2 else [])]
    return nn.Sequential(*layers)


class Side:
    """One way to hold the network, with its optimizer and updater."""

    def __init__(
        self,
        kind: str,
        options: argparse.Namespace,
        *,
        seed: int,
        per_epoch: int,
        adam: bool = False,
    ) -> None:
        net = network(SIZES[options.data], seed)
        sparse = {"sparsity": None, "allocation": regrow.erdos_renyi(epsilon=EPSILON)}
        if kind == "truly sparse":
            regrow.compress_(net, **sparse, seed=seed)
        self.model = net
        parameters = net.parameters()
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.Adam(parameters, 1e-3)
            if adam
            else torch.optim.SGD(parameters, options.lr, momentum=0.9, weight_decay=2e-4)
        )
        if kind != "dense":
            self.updater = regrow.set_training(
                net,
                self.optimizer,
                **sparse,
                seed=seed,
                n_steps=max(options.epochs, 2) * per_epoch,
                interval=per_epoch,
                stop_at=1.0,
            )

    def step(self, x: Tensor, y: Tensor) -> float:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def batches(train: tuple[Tensor, Tensor], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    x, y = train
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    for rows in order.split(BATCH):
        if len(rows) == BATCH:
            yield x[rows], y[rows]


def print_times(options: argparse.Namespace, train: tuple[Tensor, Tensor]) -> None:
    per_epoch = len(train[0]) // BATCH
    kinds = ("dense", "masked", "truly sparse")
    sides = {kind: Side(kind, options, seed=0, per_epoch=10**6) for kind in kinds}
    del per_epoch
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for i, (x, y) in enumerate(batches(train, 0)):
        for kind, side in sides.items():
            started = time.perf_counter()
            side.step(x, y)
            if i >= 3:
                seconds[kind].append(time.perf_counter() - started)
        if i == options.steps + 3:
            break
    least = {kind: min(times) for kind, times in seconds.items()}
    for kind, times in seconds.items():
        ratio = least["dense"] / least[kind]
        print(
            f"step, {kind}: min {1e3 * least[kind]:.2f} ms, median "
            f"{1e3 * statistics.median(times):.2f} ms, dense / this {ratio:.2f}"
        )


def print_bytes(options: argparse.Namespace, train: tuple[Tensor, Tensor]) -> None:
    some = [batch for batch, _ in zip(batches(train, 0), range(6), strict=False)]
    for adam in (False, True):
        held = held_bytes(options, some, adam=adam)
        print(f"{'Adam' if adam else 'SGD with momentum'}: {held:.2f} bytes a connection held")


def held_bytes(
    options: argparse.Namespace, some: list[tuple[Tensor, Tensor]], *, adam: bool
) -> float:
    """Of a trained network between two ordinary steps, over its connections."""
    before = live_bytes()
    side = Side("truly sparse", options, seed=0, per_epoch=3, adam=adam)
    for x, y in some[:5]:  # (the third rewires)
        side.step(x, y)
    return (live_bytes() - before) / side.updater.nnz


@torch.no_grad()
def accuracy(model: nn.Module, test: tuple[Tensor, Tensor]) -> float:
    model.eval()
    hits = sum(
        int((model(x).argmax(1) == y).sum())
        for x, y in zip(test[0].split(500), test[1].split(500), strict=True)
    )
    model.train()
    return 100 * hits / len(test[1])


def print_accuracies(
    options: argparse.Namespace, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> None:
    per_epoch = len(train[0]) // BATCH
    found: dict[str, list[float]] = {"masked": [], "truly sparse": []}
    for seed in range(options.seeds):
        for kind, accuracies in found.items():
            side, started = Side(kind, options, seed=seed, per_epoch=per_epoch), time.perf_counter()
            for epoch in range(options.epochs):
                for x, y in batches(train, 1000 * seed + epoch):
                    side.step(x, y)
            accuracies.append(accuracy(side.model, test))
            print(
                f"seed {seed}, {kind}: {accuracies[-1]:.2f} % after {options.epochs} epochs, "
                f"{time.perf_counter() - started:.0f} s, {side.updater.rewirings} rewirings",
                flush=True,
            )
    masked, sparse = (statistics.mean(one) for one in found.values())
    print(f"mean: masked {masked:.2f} %, truly sparse {sparse:.2f} %, {sparse - masked:+.2f}")


if __name__ == "__main__":
    main()
