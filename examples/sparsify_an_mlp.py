"""The shortest whole program: one call makes a perceptron sparse, the loop stays as it was.

python examples/sparsify_an_mlp.py
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regrow


@dataclass(frozen=True)
class Settings:
    """Defaults for seconds on one core."""

    widths: tuple[int, ...] = (20, 128, 128, 5)  # inputs, hidden layers, classes
    sparsity: float = 0.9
    n_steps: int = 300
    interval: int = 20
    batch_size: int = 64
    seed: int = 0


def sparse(
    model: nn.Module, optimizer: torch.optim.Optimizer, s: Settings
) -> regrow.TopologyUpdater:
    """The one call: RigL, with the paper's defaults for all that is not said."""
    return regrow.rigl(
        model, optimizer, sparsity=s.sparsity, n_steps=s.n_steps, interval=s.interval, seed=s.seed
    )


def network(s: Settings) -> nn.Sequential:
    """A perceptron."""
    layers = []
    for n_in, n_out in zip(s.widths, s.widths[1:], strict=False):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def points(s: Settings, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two clusters a class, in noise."""
    fixed = torch.Generator().manual_seed(s.seed)
    centres = torch.randn(2, s.widths[-1], s.widths[0], generator=fixed)
    labels = torch.randint(0, s.widths[-1], (n,), generator=generator)
    which = torch.randint(0, 2, (n,), generator=generator)
    return centres[which, labels] + torch.randn(n, s.widths[0], generator=generator), labels


def main(s: Settings = Settings()) -> regrow.TopologyUpdater:
    """Train, and print what happened."""
    torch.manual_seed(s.seed)
    generator = torch.Generator().manual_seed(s.seed + 1)
    model = network(s)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = sparse(model, optimizer, s)
    inputs, labels = points(s, s.batch_size, generator)
    print(updater.plan(inputs))  # before training: what will be sparse, and what it costs
    for _ in range(s.n_steps):
        inputs, labels = points(s, s.batch_size, generator)
        loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    inputs, labels = points(s, 1000, generator)
    with torch.no_grad():
        accuracy = (model(inputs).argmax(1) == labels).float().mean().item()
    print(updater.report())  # afterwards: what was dropped, grown and tried
    print(f"loss {loss.item():.3f}, test accuracy {accuracy:.3f}")
    return updater


if __name__ == "__main__":
    main()
