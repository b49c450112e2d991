"""Structures before and after one rewiring.

The mask of one convolution under each structure: connections that stay are grey, dropped ones
orange, grown ones blue. The weight has 12 outputs (rows), 16 inputs (columns) and kernels of 3 by
3, which are drawn as tiles. One rewiring of a third of the connections by magnitude and gradient,
on random data; no group ends with more or fewer than it had.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from torch import Tensor, nn

import regrow

COLOURS = ListedColormap(["white", "0.65", "tab:orange", "tab:blue"])
CASES = {
    "Unstructured()": (regrow.Unstructured(), 0.75),
    "ConstantFanIn()": (regrow.ConstantFanIn(), 0.75),
    "NM(2, 4)": (regrow.NM(2, 4), 0.5),
    "Block(2, 2)": (regrow.Block(2, 2), 0.75),
    "Kernel()": (regrow.Kernel(), 0.75),
    "OutChannel()": (regrow.OutChannel(), 0.75),
    "InChannel()": (regrow.InChannel(), 0.75),
    "ChannelGroups(4)": (regrow.ChannelGroups(4), 0.75),
}


def masks(structure: regrow.topology.Structure, sparsity: float) -> tuple[Tensor, Tensor]:
    """The mask of the weight before and after one rewiring, kernels laid out as tiles."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 12, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = regrow.rigl(
        model,
        optimizer,
        sparsity=sparsity,
        n_steps=4,
        interval=1,
        drop_fraction=regrow.schedules.constant(1 / 3),
        regrow="never",
        structure=structure,
        seed=0,
    )
    before = updater.topologies["0.weight"].mask
    (model(torch.randn(16, 16, 5, 5)) - torch.randn(16, 12, 3, 3)).square().mean().backward()
    optimizer.step()
    after = updater.topologies["0.weight"].mask
    return as_picture(before), as_picture(after)


def as_picture(mask: Tensor) -> Tensor:
    """(outputs, inputs, 3, 3) -> (3 outputs, 3 inputs)."""
    return mask.transpose(1, 2).reshape(3 * mask.shape[0], 3 * mask.shape[1])


def main(folder: Path) -> None:
    """Write ``structures.svg`` into a folder."""
    figure, panels = plt.subplots(4, 2, figsize=(7, 11), layout="constrained")
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, (name, case) in zip(panels.flat, CASES.items(), strict=True):
        before, after = (mask.numpy() for mask in masks(*case))
        picture = np.select([before & after, before, after], [1, 2, 3], default=0)
        axes.imshow(picture, cmap=COLOURS, vmin=0, vmax=3, interpolation="nearest")
        axes.set_title(name, fontsize=9)
    figure.savefig(folder / "structures.svg")
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
