"""Models for the tests of files: the same network dense, and truly sparse."""

import re

import torch
from torch import nn

import regrow
from regrow.nn import finalize_

NAME = re.escape("model.safetensors")
"""What an error about the file says of it."""


def dense_net(dtype=torch.float32):
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 9, 32, bias=False), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 5),
    )  # fmt: skip
    return net.to(dtype)


def sparse_net(seed=0, dtype=torch.float32, sparsity=0.8):
    torch.manual_seed(seed)
    net = dense_net(dtype)
    regrow.compress_(net, sparsity=sparsity, select=["0.weight", "4.weight", "6.weight"], seed=seed)
    net(torch.randn(16, 4, 6, 6, dtype=dtype))  # (statistics of the norm)
    return finalize_(net)


def batch(n, dtype=torch.float32):
    return torch.randn(n, 4, 6, 6, generator=torch.Generator().manual_seed(n)).to(dtype)
