"""FreeTickets' EDST: one sparse training run that leaves an ensemble behind.

Liu et al. 2022, "Deep Ensembling with No Overhead for either Training or Testing: The All-Round
Blessings of Dynamic Sparsity". A long exploration at a high learning rate, then phases that each
end in a ticket; at the start of each phase but the first most connections are exchanged, so that
tickets differ. The ensemble is the mean of their probabilities.

    python examples/freetickets.py

The default is small and trains on made-up points; ``PUBLISHED`` has the numbers of the official
code for Wide ResNet 28-10 on CIFAR. Its large exploration falls between two steps; here it follows
the first step of the phase, whose gradient it grows by, so that the ticket before is untouched.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regrow


@dataclass(frozen=True)
class Settings:
    """Defaults for seconds on one core; ``PUBLISHED`` where they differ."""

    widths: tuple[int, ...] = (20, 64, 64, 5)  # inputs, hidden layers, classes
    sparsity: float = 0.8
    drop_fraction: float = 0.5
    large_drop_fraction: float = 0.8
    interval: int = 20
    exploration_epochs: int = 15
    phase_epochs: int = 10
    n_tickets: int = 3
    steps_an_epoch: int = 10
    batch_size: int = 32
    seed: int = 0

    @property
    def n_epochs(self) -> int:
        """Epochs of the whole training."""
        return self.exploration_epochs + self.n_tickets * self.phase_epochs

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.n_epochs * self.steps_an_epoch

    def phase_start(self, phase: int) -> int:
        """First epoch, counted from 0, of phase 1, 2 and so on."""
        return self.exploration_epochs + (phase - 1) * self.phase_epochs


PUBLISHED = Settings(
    interval=1000, exploration_epochs=150, phase_epochs=100, steps_an_epoch=391, batch_size=128
)


@dataclass(frozen=True)
class Ticket:
    """The best network of a phase, by accuracy on validation data."""

    accuracy: float
    weights: dict[str, Tensor]
    topologies: dict[str, regrow.Topology]


def edst(model: nn.Module, optimizer: torch.optim.Optimizer, s: Settings) -> regrow.TopologyUpdater:
    """The composition: RigL's growth at a constant fraction, and a large one where phases begin."""
    starts = [s.phase_start(k) * s.steps_an_epoch + 1 for k in range(2, s.n_tickets + 1)]
    fractions = [(0, s.drop_fraction)]
    for step in starts:
        fractions += [(step, s.large_drop_fraction), (step + 1, s.drop_fraction)]
    layers = regrow.sparsify_(
        model, sparsity=s.sparsity, allocation=regrow.erdos_renyi_kernel(), seed=s.seed
    )
    rule = regrow.Rule(
        drop=regrow.criteria.magnitude,
        grow=regrow.criteria.gradient,
        drop_fraction=regrow.schedules.piecewise(*fractions),
        window=regrow.schedules.UpdateWindow(
            interval=s.interval, stop=s.n_steps + 1, also=tuple(starts)
        ),
        budget=regrow.per_layer(rounding="up"),
    )
    part = regrow.training.Part(list(layers.values()), rule)
    return regrow.TopologyUpdater(model, optimizer, parts=[part], seed=s.seed)


def learning_rate(s: Settings) -> Callable[[int], float]:
    """By epoch: 0.1 while exploring; in each phase 0.01, and 0.001 from its middle on."""
    pieces = [(0, 0.1)]
    for phase in range(1, s.n_tickets + 1):
        start = s.phase_start(phase)
        pieces += [(start, 0.01), (start + s.phase_epochs // 2, 0.001)]
    return regrow.schedules.piecewise(*pieces)


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
    noise = torch.randn(n, s.widths[0], generator=generator)
    return centres[which, labels] + 1.3 * noise, labels


@torch.no_grad()
def accuracy_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share of right answers."""
    return (model(inputs).argmax(1) == labels).float().mean().item()


@torch.no_grad()
def ensemble(model: nn.Module, tickets: list[Ticket], inputs: Tensor) -> Tensor:
    """Mean probabilities (batch, class) of all tickets, loaded one by one."""
    answers = []
    for ticket in tickets:
        model.load_state_dict(ticket.weights)
        answers.append(model(inputs).softmax(1))
    return torch.stack(answers).mean(0)


def main(s: Settings = Settings()) -> tuple[regrow.TopologyUpdater, list[Ticket]]:
    """Train, and print what happened."""
    torch.manual_seed(s.seed)
    generator = torch.Generator().manual_seed(s.seed + 1)
    model = network(s)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    updater = edst(model, optimizer, s)
    rate = learning_rate(s)
    best: dict[int, Ticket] = {}
    validation = points(s, 300, generator)
    for epoch in range(s.n_epochs):
        optimizer.param_groups[0]["lr"] = rate(epoch)
        for _ in range(s.steps_an_epoch):
            inputs, labels = points(s, s.batch_size, generator)
            loss = F.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        phase = (epoch - s.exploration_epochs) // s.phase_epochs + 1
        accuracy = accuracy_of(model, *validation)
        if phase >= 1 and (phase not in best or accuracy > best[phase].accuracy):
            weights = copy.deepcopy(model.state_dict())
            best[phase] = Ticket(accuracy, weights, dict(updater.topologies))
    print(updater.report())
    updater.detach()
    tickets = [best[phase] for phase in sorted(best)]
    inputs, labels = points(s, 1000, generator)
    for number, ticket in enumerate(tickets, start=1):
        model.load_state_dict(ticket.weights)
        print(f"ticket {number}: test accuracy {accuracy_of(model, inputs, labels):.3f}")
    together = (ensemble(model, tickets, inputs).argmax(1) == labels).float().mean().item()
    print(f"ensemble: test accuracy {together:.3f}")
    return updater, tickets


if __name__ == "__main__":
    main()
