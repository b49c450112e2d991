"""Parts of the tiny net, for the tests of ``regrow.combine``."""

from typing import Any

import torch
from tiny_cases import OPTIMIZERS
from torch import nn

import regrow
from regrow import part


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return OPTIMIZERS["sgd"](net.parameters())


def four_parts() -> list[regrow.methods.MethodPart]:
    """Four methods, four structures, four sparsities, three intervals."""
    return [
        part(
            regrow.rigl,
            select="conv.*eight",
            sparsity=0.5,
            structure=regrow.Kernel(),
            n_steps=20,
            interval=3,
            weight_step="before",
        ),
        part(
            regrow.granet,
            select="fc.weight",
            sparsity=0.8,
            structure=regrow.ChannelGroups(4),
            n_steps=20,
            interval=4,
            growth="random",
        ),
        part(
            regrow.set_training,
            select="mid.weight",
            sparsity=None,
            structure=regrow.NM(1, 4),
            n_steps=20,
            interval=5,
            drop_fraction=0.6,
        ),
        part(regrow.static, select=lambda n, m, p: n == "head.weight", sparsity=0.25),
    ]


def rigl_part(select: Any, **options: Any) -> regrow.methods.MethodPart:
    return part(
        regrow.rigl,
        select=select,
        **{"sparsity": 0.5, "n_steps": 20, "interval": 3, **options},
    )
