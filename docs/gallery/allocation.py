"""ERK and uniform allocation on ResNet-18.

Sparsity of each layer of the CIFAR form of ResNet-18, at 0.9 over all of them. Erdős-Rényi-kernel
(ERK) allocation takes from large layers and leaves small ones nearly or wholly dense; the dashed
line is what uniform allocation gives every layer.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

import regrow
from regrow.models import resnet18

SPARSITY = 0.9


def main(folder: Path) -> None:
    """Write ``allocation.svg`` into a folder."""
    model = resnet18(10)
    shapes = {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if parameter.dim() >= 2
    }
    erk = regrow.allocate(shapes, SPARSITY, "erdos_renyi_kernel")
    labels = [
        f"{'1x1 conv' if shape[2:] == (1, 1) else '3x3 conv' if shape[2:] else 'linear'} "
        f"{shape[1]}→{shape[0]}"
        for shape in shapes.values()
    ]
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    axes.bar(range(len(erk)), list(erk.values()), color="tab:blue", label="ERK")
    axes.axhline(SPARSITY, color="tab:orange", linestyle="--", label="uniform")
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
    axes.set_ylabel("sparsity of the layer")
    axes.legend(loc="upper left")
    figure.savefig(folder / "allocation.svg")
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
