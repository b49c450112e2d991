"""SLaK's sparse groups: large depthwise kernels in two thin parts, nearly everything sparse.

Liu et al. 2023, "More ConvNets in the 2020s: Scaling up Kernels Beyond 51x51 using Sparsity".
Every parameter of two or four dimensions is sparse; how sparse each layer is comes from SNIP scores
of one batch (Lee et al. 2019), what exists at first is drawn at random.

    python examples/slak.py

The default is tiny and trains on made-up pictures; ``TINY``, ``SMALL`` and ``BASE`` have the sizes
and numbers of the official code. It draws growth with a count that is right on average only; here
counts are kept. What is left out: mixup, label smoothing, drop path, weight averaging.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regrow


@dataclass(frozen=True)
class Settings:
    """Defaults for seconds on one core; ``TINY`` where they differ."""

    widths: tuple[int, ...] = (8, 16, 24, 32)
    width_factor: float = 1.0
    kernels: tuple[int, ...] = (13, 9, 7, 5)
    small_kernel: int = 5
    blocks: tuple[int, ...] = (1, 1, 2, 1)
    n_classes: int = 4
    sparsity: float = 0.4
    dense_from: float = 0.99  # layers that SNIP leaves at least so dense stay dense
    drop_fraction: float = 0.5
    last_drop_fraction: float = 0.005
    interval: int = 10
    n_epochs: int = 6
    steps_an_epoch: int = 8
    warm_up_epochs: int = 1
    batch_size: int = 16
    side: int = 64
    seed: int = 0

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.n_epochs * self.steps_an_epoch


TINY = Settings(
    widths=(96, 192, 384, 768),
    width_factor=1.3,
    kernels=(51, 49, 47, 13),
    blocks=(3, 3, 9, 3),
    n_classes=1000,
    interval=2000,
    n_epochs=300,
    steps_an_epoch=1_281_167 // 4096,
    warm_up_epochs=20,
    batch_size=4096,
    side=224,
)
_MORE = {"blocks": (3, 3, 27, 3), "interval": 100, "drop_fraction": 0.3}
SMALL = Settings(**{**vars(TINY), **_MORE})
BASE = Settings(**{**vars(SMALL), "widths": (128, 256, 512, 1024)})


def slak(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], s: Settings
) -> regrow.TopologyUpdater:
    """The composition: SNIP's sparsity of each layer, and how the layers are rewired."""
    names = [name for name, weight in model.named_parameters() if weight.dim() in (2, 4)]
    scored = copy.deepcopy(model)
    F.cross_entropy(scored(batch[0]), batch[1]).backward()
    weights = [scored.get_parameter(name) for name in names]
    scores = [(weight * weight.grad).detach().abs().flatten() for weight in weights]
    sizes = torch.tensor([score.numel() for score in scores])
    n_kept = round((1 - s.sparsity) * int(sizes.sum()))
    kept = regrow.topology.select_top(torch.cat(scores), None, n_kept)
    layer = torch.arange(len(names)).repeat_interleave(sizes)
    densities = layer[kept].bincount(minlength=len(names)) / sizes.double()
    sparsities = {
        name: 1 - density
        for name, density in zip(names, densities.tolist(), strict=True)
        if density < s.dense_from
    }
    layers = regrow.sparsify_(
        model,
        sparsity=None,
        allocation=regrow.explicit(sparsities),
        select=list(sparsities),
        seed=s.seed,
    )
    rule = regrow.Rule(
        drop=regrow.criteria.magnitude,
        grow=regrow.criteria.random,
        drop_fraction=regrow.schedules.cosine(s.drop_fraction, s.last_drop_fraction, end=s.n_steps),
        window=regrow.schedules.UpdateWindow(interval=s.interval, stop=s.n_steps + 1),
        budget=regrow.per_layer(rounding="up"),
    )
    part = regrow.training.Part(list(layers.values()), rule)
    return regrow.TopologyUpdater(model, optimizer, parts=[part], seed=s.seed)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of (batch, channel, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    """K x N, N x K and N x N depthwise convolutions summed, then a perceptron on each pixel."""

    def __init__(self, n: int, kernel: int, small: int) -> None:
        super().__init__()
        shapes = [(kernel, small), (small, kernel), (small, small)]
        self.convs = nn.ModuleList(
            nn.Conv2d(n, n, shape, padding=(shape[0] // 2, shape[1] // 2), groups=n, bias=False)
            for shape in shapes
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for _ in shapes)
        self.norm = nn.LayerNorm(n, eps=1e-6)
        self.widen, self.narrow = nn.Linear(n, 4 * n), nn.Linear(4 * n, n)
        self.scale = nn.Parameter(torch.full((n,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape (batch, channel, height, width)."""
        seen = sum(norm(conv(x)) for conv, norm in zip(self.convs, self.norms, strict=True))
        y = self.narrow(F.gelu(self.widen(self.norm(seen.movedim(1, -1)))))
        return x + (self.scale * y).movedim(-1, 1)


def slak_net(s: Settings) -> nn.Sequential:
    """ConvNeXt with such blocks."""
    stages, before = [], 3
    for i, (width, n_blocks) in enumerate(zip(s.widths, s.blocks, strict=True)):
        n = int(width * s.width_factor)
        down = [nn.Conv2d(before, n, 2, stride=2) if i else nn.Conv2d(before, n, 4, stride=4)]
        norm = LayerNorm2d(before if i else n, eps=1e-6)
        stages += [norm, *down] if i else [*down, norm]
        stages += [Block(n, s.kernels[i], s.small_kernel) for _ in range(n_blocks)]
        before = n
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(before, eps=1e-6)]
    model = nn.Sequential(*stages, *head, nn.Linear(before, s.n_classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def pictures(s: Settings, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Stripes in noise, whose direction is the class."""
    labels = torch.randint(0, s.n_classes, (s.batch_size,), generator=generator)
    angle = (labels * math.pi / s.n_classes).view(-1, 1, 1, 1)
    y, x = torch.meshgrid(torch.arange(s.side), torch.arange(s.side), indexing="ij")
    stripes = torch.sin((x * angle.cos() + y * angle.sin()) * 0.6)
    noise = torch.randn(s.batch_size, 3, s.side, s.side, generator=generator)
    return stripes + 0.5 * noise, labels


def main(s: Settings = Settings()) -> regrow.TopologyUpdater:
    """Train, and print what happened."""
    torch.manual_seed(s.seed)
    generator = torch.Generator().manual_seed(s.seed)
    model = slak_net(s)
    flat = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    other = [parameter for parameter in model.parameters() if parameter.dim() != 1]
    groups = [{"params": other, "weight_decay": 0.05}, {"params": flat, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=4e-3)
    warm_up = s.warm_up_epochs * s.steps_an_epoch
    cooling = regrow.schedules.cosine(4e-3, 1e-6, start=warm_up, end=s.n_steps)
    updater = slak(model, optimizer, pictures(s, generator), s)
    for step in range(s.n_steps):
        for group in optimizer.param_groups:
            group["lr"] = cooling(step) * min(1, (step + 1) / warm_up)
        inputs, labels = pictures(s, generator)
        loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % s.steps_an_epoch == 0:
            print(f"step {step + 1}: loss {loss.item():.3f}, sparsity {updater.sparsity:.4f}")
    print(updater.report())
    return updater


if __name__ == "__main__":
    main()
