"""How much of the network is ever tried.

The fraction of all possible connections that were active at some time (R_s of ITOP, Liu et al.
2021), after each rewiring of a perceptron at sparsity 0.9 on scikit-learn's handwritten digits. SET
grows at random and explores more than RigL, which returns to the connections of large gradient;
static training stays at its 0.1. One seed, 400 steps.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import regrow

N_STEPS = 400
METHODS = {"set_training": regrow.set_training, "rigl": regrow.rigl, "mest": regrow.mest}


def explored(method: str) -> tuple[list[int], list[float]]:
    """Steps of the rewirings, and the exploration after each."""
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = METHODS[method](model, optimizer, sparsity=0.9, n_steps=N_STEPS, interval=10, seed=0)
    steps, found = [0], [updater.exploration]
    updater.on_rewire(lambda record: steps.append(record.step))
    updater.on_rewire(lambda _: found.append(updater.exploration))
    for _ in range(N_STEPS):
        batch = torch.randint(len(images), (64,))
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return steps, found


def main(folder: Path) -> None:
    """Write ``exploration.svg`` into a folder."""
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for name in METHODS:
        axes.plot(*explored(name), label=name)
    axes.axhline(0.1, color="black", linestyle=":", label="static")
    axes.set_ylim(0, 1)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("fraction ever active")
    axes.legend()
    figure.savefig(folder / "exploration.svg")
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
