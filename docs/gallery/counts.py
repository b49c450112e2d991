"""Number of connections over a training.

Connections over all layers after each step, on the way to sparsity 0.9. MEST holds more than the
target and lets go in stages (its soft bound is 0.5 here, to be seen; the default is 0.1). GraNet
prunes from 0.5 along a cubic while it rewires; gradual pruning starts dense. RigL, SET and static
training stay where they are. Each run trains a perceptron on random data for 400 steps, with a
rewiring every 10.
"""

import sys
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

import regrow

N_STEPS = 400
METHODS = {
    "rigl": regrow.rigl,
    "mest": partial(regrow.mest, soft_bound=0.5),
    "granet": regrow.granet,
    "gradual": regrow.gradual,
}


def nnz_of_a_run(method: str) -> list[int]:
    """Connections after each step of a short run."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = METHODS[method](model, optimizer, sparsity=0.9, n_steps=N_STEPS, interval=10, seed=0)
    x, y = torch.randn(64, 32), torch.randint(10, (64,))
    found = [updater.nnz]
    for _ in range(N_STEPS):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(updater.nnz)
    return found


def main(folder: Path) -> None:
    """Write ``counts.svg`` into a folder."""
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for name in METHODS:
        axes.plot(nnz_of_a_run(name), label=name)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("connections")
    axes.set_yscale("log")
    axes.legend()
    figure.savefig(folder / "counts.svg")
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
