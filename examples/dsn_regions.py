"""DSN: long kernels for time series, whose connections move within regions of growing size.

Xiao et al. 2022, "Dynamic Sparse Network for Time Series Classification: Learning What to 'See'".
The output channels of a convolution are three groups; those of group i may only see the first
i/3 of the 39 taps, and each group keeps its own number of connections.

    python examples/dsn_regions.py

The default is small and trains on made-up series; ``PUBLISHED`` has the sizes of the official code
on the UCR archive. Its Adam keeps the moments of what was dropped; here they start afresh.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regrow


@dataclass(frozen=True)
class Settings:
    """Defaults for seconds on one core; ``PUBLISHED`` where they differ."""

    n_inputs: int = 1
    n_features: int = 12
    n_classes: int = 2
    n_layers: int = 4
    kernel: int = 39
    n_regions: int = 3
    sparsity: float = 0.8  # of each region; over whole kernels 1 - 0.2 * 2/3
    first: Literal["tap_major", "random"] = "tap_major"  # remain_sort, remain_random
    drop_fraction: float = 0.5
    last_drop_fraction: float = 0.001
    epochs_a_rewiring: int = 5
    n_epochs: int = 20
    steps_an_epoch: int = 10
    batch_size: int = 6
    length: int = 24
    seed: int = 17

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.n_epochs * self.steps_an_epoch


PUBLISHED = Settings(n_features=47, n_epochs=1000)


def dsn(model: nn.Module, optimizer: torch.optim.Optimizer, s: Settings) -> regrow.TopologyUpdater:
    """The composition: regions, what is active in them at first, and how that is rewired."""
    groups, first = regrow.ChannelGroups(s.n_regions), {}
    for name, weight in model.named_parameters():
        shape = tuple(weight.shape)
        if len(shape) < 3 or shape[2] < 5:
            continue
        allowed = torch.zeros(shape, dtype=torch.bool)
        for i, region in enumerate(allowed.chunk(s.n_regions), start=1):
            region[..., : shape[2] // s.n_regions * i] = True
        units = allowed.flatten().nonzero().squeeze(1)
        group = groups.group_of(units, shape)
        n_active = (group.bincount().double() * (1 - s.sparsity) + 1e-9).long()
        if s.first == "random":
            generator = regrow.topology.derived_generator(s.seed, "first", name)
            order = torch.rand(len(units), generator=generator, dtype=torch.float64)
        else:
            order = -(units % shape[2]).double()  # tap 0 of all kernels of a group, then tap 1, ...
        chosen = units[regrow.topology.select_top(order, group, n_active)]
        first[name] = regrow.Topology(chosen, shape, structure=groups, allowed=allowed.flatten())
    layers = regrow.sparsify_(
        model, sparsity=None, allocation=regrow.explicit(first), select=list(first)
    )
    end, interval = round(0.8 * s.n_steps), s.epochs_a_rewiring * s.steps_an_epoch
    rule = regrow.Rule(
        drop=regrow.criteria.magnitude,
        grow=regrow.criteria.random,
        drop_fraction=regrow.schedules.cosine(s.drop_fraction, s.last_drop_fraction, end=end),
        window=regrow.schedules.UpdateWindow(interval=interval, stop=s.n_steps + 1),
        budget=regrow.per_group(rounding="up"),
    )
    part = regrow.training.Part(list(layers.values()), rule)
    return regrow.TopologyUpdater(model, optimizer, parts=[part], seed=s.seed)


class DSN(nn.Module):
    """Sparse modules, then a head of two average pools around a 1x1 convolution."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        wide = s.n_regions * s.n_features
        self.mixes, self.convs, self.norms = (nn.ModuleList() for _ in range(3))
        for i in range(s.n_layers):
            n_in = wide if i else s.n_inputs
            mixed = n_in > 1
            n_narrow = s.n_features if mixed else n_in
            mix = nn.Conv1d(n_in, n_narrow, 1, bias=False) if mixed else nn.Identity()
            self.mixes.append(mix)
            self.convs.append(nn.Conv1d(n_narrow, wide, s.kernel, bias=False))
            self.norms.append(nn.BatchNorm1d(wide))
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool1d(50),
            nn.Conv1d(wide, s.n_classes, 1, bias=False),
            nn.BatchNorm1d(s.n_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities (batch, class) of series (batch, input, time)."""
        for mix, conv, norm in zip(self.mixes, self.convs, self.norms, strict=True):
            padded = F.pad(mix(x), (0, conv.kernel_size[0] - 1), mode="replicate")
            x = norm(conv(padded)).relu()
        return self.head(x).mean(2).log_softmax(1)


def series(s: Settings, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Waves in noise, at a phase of their own; the class is the number of waves."""
    labels = torch.randint(0, s.n_classes, (n,), generator=generator)
    phases = torch.rand(n, s.n_inputs, 1, generator=generator)
    time = torch.linspace(0, 1, s.length)
    waves = torch.sin(2 * math.pi * ((labels[:, None, None] + 2) * time + phases))
    return waves + 0.3 * torch.randn(waves.shape, generator=generator), labels


def main(s: Settings = Settings()) -> regrow.TopologyUpdater:
    """Train, and print what happened."""
    torch.manual_seed(s.seed)
    generator = torch.Generator().manual_seed(s.seed)
    model = DSN(s)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    cooling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, s.n_epochs, eta_min=1e-4)
    updater = dsn(model, optimizer, s)
    for epoch in range(s.n_epochs):
        for _ in range(s.steps_an_epoch):
            inputs, labels = series(s, s.batch_size, generator)
            loss = F.nll_loss(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        cooling.step()
        if (epoch + 1) % s.epochs_a_rewiring == 0:
            print(f"epoch {epoch}: loss {loss.item():.3f}, explored {updater.exploration:.4f}")
    model.eval()
    inputs, labels = series(s, 200, generator)
    with torch.no_grad():
        accuracy = (model(inputs).argmax(1) == labels).float().mean().item()
    print(updater.report())
    print(f"test accuracy {accuracy:.3f}")
    return updater


if __name__ == "__main__":
    main()
