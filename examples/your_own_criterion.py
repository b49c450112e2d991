"""A criterion of your own: a function of a layer and positions that returns scores.

By magnitude, an output whose weights are all small loses every connection. Scored relative to the
largest weight into the same output, the largest stays, and no output loses its last connection.

    python examples/your_own_criterion.py
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regrow


@dataclass(frozen=True)
class Settings:
    """Defaults for seconds on one core."""

    widths: tuple[int, ...] = (20, 128, 128, 5)  # inputs, hidden layers, classes
    sparsity: float = 0.95
    relative: bool = True  # else by magnitude
    n_steps: int = 300
    interval: int = 20
    batch_size: int = 64
    seed: int = 0


def relative_magnitude(layer: regrow.typing.LayerView, flat: Tensor) -> Tensor:
    """Magnitudes at positions ``flat`` (n,), each over the largest into the same output.

    Positions are flat and row-major; of the weights that exist, those with the lowest scores go.
    """
    weights = layer.weight_at(flat).abs()
    n_out = layer.topology.shape[0]
    output = flat // (layer.topology.n_elements // n_out)
    largest = weights.new_zeros(n_out).scatter_reduce(0, output, weights, "amax")
    return weights / largest[output].clamp(min=1e-30)


def sparse(
    model: nn.Module, optimizer: torch.optim.Optimizer, s: Settings
) -> regrow.TopologyUpdater:
    """SET that drops by it. As a ``Score`` it has a name, and says that it reads no gradient."""
    own = regrow.criteria.Score("relative_magnitude", relative_magnitude)
    return regrow.set_training(
        model,
        optimizer,
        sparsity=s.sparsity,
        n_steps=s.n_steps,
        interval=s.interval,
        drop=own if s.relative else regrow.criteria.magnitude,
        seed=s.seed,
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


def train(s: Settings) -> regrow.TopologyUpdater:
    """The usual loop."""
    torch.manual_seed(s.seed)
    generator = torch.Generator().manual_seed(s.seed + 1)
    model = network(s)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = sparse(model, optimizer, s)
    dead_at_first = n_dead(updater)
    for _ in range(s.n_steps):
        inputs, labels = points(s, s.batch_size, generator)
        loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    inputs, labels = points(s, 1000, generator)
    with torch.no_grad():
        accuracy = (model(inputs).argmax(1) == labels).float().mean().item()
    print(f"  outputs without input: {dead_at_first} at first, {n_dead(updater)} at the end")
    print(f"  accuracy {accuracy:.3f}")
    return updater


def n_dead(updater: regrow.TopologyUpdater) -> int:
    """Outputs that no connection leads to, of all layers."""
    return sum(int((~t.mask.any(dim=1)).sum()) for t in updater.topologies.values())


def main(s: Settings = Settings()) -> regrow.TopologyUpdater:
    """Train with either criterion, and print what happened."""
    print("by magnitude:")
    train(replace(s, relative=False))
    print("by relative magnitude:")
    return train(replace(s, relative=True))


if __name__ == "__main__":
    main()
