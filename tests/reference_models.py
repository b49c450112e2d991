"""Networks that published numbers are about, without storage: on the meta device."""

import pytest
import torch
from torch import Tensor, nn


def torchvision_model(name, **arguments):
    """A torchvision network on the meta device; the test is skipped without torchvision."""
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        return getattr(models, name)(**arguments)


def weight_shapes(model):
    """Name -> shape of all that has two dimensions or more."""
    return {name: tuple(p.shape) for name, p in model.named_parameters() if p.dim() >= 2}


class _WideBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.shortcut = nn.Identity()
        if n_in != n_out:
            self.shortcut = nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x).relu()) + self.shortcut(x)


def wide_resnet(depth, width, n_classes=10):
    """WRN-depth-width for 32 x 32 images (Zagoruyko and Komodakis 2016), without its norms."""
    sizes = [16, 16 * width, 32 * width, 64 * width]
    with torch.device("meta"):
        blocks = []
        for stage in range(3):
            for i in range((depth - 4) // 6):
                n_in = sizes[stage] if i == 0 else sizes[stage + 1]
                stride = 2 if stage and i == 0 else 1
                blocks.append(_WideBlock(n_in, sizes[stage + 1], stride))
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, 1, 1, bias=False),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(sizes[3], n_classes),
        )
