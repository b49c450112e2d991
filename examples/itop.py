"""ITOP: rewire seldom and to the very end, so that in time most connections have been tried.

Liu et al. 2021, "Do We Actually Need Dense Over-Parameterization? In-Time Over-Parameterization in
Sparse Training". SET or RigL with long intervals, a drop fraction that never reaches zero, and no
end before the training's: what counts is the exploration rate R_s, the share of all connections
that were ever active.

    python examples/itop.py

The default is small and trains on made-up pictures; ``PUBLISHED`` and ``PUBLISHED_RIGL`` have the
numbers of the official code on CIFAR. First topologies and growth are drawn with exact counts here,
where that code's are right on average.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regrow


@dataclass(frozen=True)
class Settings:
    """Defaults for seconds on one core; ``PUBLISHED`` where they differ."""

    widths: tuple[int, ...] = (16, 32, 32)
    n_classes: int = 4
    sparsity: float = 0.9
    growth: Literal["random", "gradient"] = "random"  # ITOP-SET, ITOP-RigL
    drop_fraction: float = 0.5
    last_drop_fraction: float = 0.005
    interval: int = 15
    n_epochs: int = 12
    steps_an_epoch: int = 10
    batch_size: int = 32
    side: int = 16
    learning_rate: float = 0.1
    seed: int = 0

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.n_epochs * self.steps_an_epoch


PUBLISHED = Settings(
    n_classes=10, interval=1500, n_epochs=250, steps_an_epoch=391, batch_size=128, side=32
)
PUBLISHED_RIGL = replace(PUBLISHED, growth="gradient", interval=4000)


def itop(model: nn.Module, optimizer: torch.optim.Optimizer, s: Settings) -> regrow.TopologyUpdater:
    """The composition: ERK, and a rule that goes on to the last step."""
    layers = regrow.sparsify_(
        model, sparsity=s.sparsity, allocation=regrow.erdos_renyi_kernel(), seed=s.seed
    )
    growth = {"random": regrow.criteria.random, "gradient": regrow.criteria.gradient}
    rule = regrow.Rule(
        drop=regrow.criteria.magnitude,
        grow=growth[s.growth],
        drop_fraction=regrow.schedules.cosine(s.drop_fraction, s.last_drop_fraction, end=s.n_steps),
        window=regrow.schedules.UpdateWindow(interval=s.interval, stop=s.n_steps + 1),
        budget=regrow.per_layer(rounding="up"),
        weight_step="before",  # the weights step, then the topology changes
    )
    part = regrow.training.Part(list(layers.values()), rule)
    return regrow.TopologyUpdater(model, optimizer, parts=[part], seed=s.seed)


def network(s: Settings) -> nn.Sequential:
    """Convolutions with norms, each but the first at half the resolution; a linear head."""
    stages, before = [], 3
    for i, width in enumerate(s.widths):
        conv = nn.Conv2d(before, width, 3, stride=2 if i else 1, padding=1, bias=False)
        stages += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, s.n_classes)]
    return nn.Sequential(*stages, *head)


def pictures(s: Settings, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A fixed pattern for each class, moved about, in noise."""
    fixed = torch.Generator().manual_seed(s.seed)
    patterns = torch.randn(s.n_classes, 3, s.side, s.side, generator=fixed)
    labels = torch.randint(0, s.n_classes, (n,), generator=generator)
    moves = torch.randint(0, s.side, (n,), generator=generator).tolist()
    moved = [patterns[k].roll(by, 2) for k, by in zip(labels.tolist(), moves, strict=True)]
    noise = torch.randn(n, 3, s.side, s.side, generator=generator)
    return torch.stack(moved) + 0.5 * noise, labels


def main(s: Settings = Settings()) -> regrow.TopologyUpdater:
    """Train, and print what happened."""
    torch.manual_seed(s.seed)
    generator = torch.Generator().manual_seed(s.seed + 1)
    model = network(s)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=s.learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    halfway, late = s.n_epochs // 2, s.n_epochs * 3 // 4
    cooling = torch.optim.lr_scheduler.MultiStepLR(optimizer, [halfway, late], gamma=0.1)
    updater = itop(model, optimizer, s)
    for epoch in range(s.n_epochs):
        for _ in range(s.steps_an_epoch):
            inputs, labels = pictures(s, s.batch_size, generator)
            loss = F.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        cooling.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}, explored {updater.exploration:.4f}")
    model.eval()
    inputs, labels = pictures(s, 400, generator)
    with torch.no_grad():
        accuracy = (model(inputs).argmax(1) == labels).float().mean().item()
    print(updater.report())
    print(f"test accuracy {accuracy:.3f}")
    return updater


if __name__ == "__main__":
    main()
