"""Where connections move to.

Connections that leave each of the 64 input pixels of a perceptron on scikit-learn's handwritten
digits: drawn at random (left), and after RigL has rewired the layer (right). They leave the columns
at the edge, which are blank in nearly every image. Sparsity 0.9, one seed, 800 steps.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import regrow

N_STEPS = 800


def counts_before_and_after() -> tuple[Tensor, Tensor]:
    """Connections of each pixel (8, 8), before and after a training."""
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = regrow.rigl(
        model,
        optimizer,
        sparsity=0.9,
        n_steps=N_STEPS,
        interval=10,
        weight_step="before",
        seed=0,
    )
    before = updater.topologies["0.weight"].mask.sum(dim=0).view(8, 8)
    for _ in range(N_STEPS):
        batch = torch.randint(len(images), (64,))
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return before, updater.topologies["0.weight"].mask.sum(dim=0).view(8, 8)


def main(folder: Path) -> None:
    """Write ``input_pixels.svg`` into a folder."""
    before, after = counts_before_and_after()
    figure, panels = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
    for axes, counts, title in zip(panels, (before, after), ("at the start", "RigL"), strict=True):
        shown = axes.imshow(counts.numpy(), vmin=0, vmax=int(after.max()), cmap="viridis")
        axes.set_title(title)
        axes.set_axis_off()
    figure.colorbar(shown, ax=panels, label="connections of a pixel")
    figure.savefig(folder / "input_pixels.svg")
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
