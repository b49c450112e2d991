"""E2ENet's dynamic sparse feature fusion: whole kernels are dropped and grown.

Wu et al. 2024, "E2ENet: Dynamic Sparse Feature Fusion for Accurate and Efficient 3D Medical Image
Segmentation". Every node of a lattice fuses features of its own, the next coarser and the next
finer level; which feature connections exist (one unit: the kernel between two channels) is learned.

    python examples/e2enet_kernels.py

The default is tiny and trains on made-up volumes; ``PUBLISHED`` has the sizes and numbers of the
official code, on AMOS at sparsity 0.7. What is left out: augmentation, mixed precision, patches.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regrow


@dataclass(frozen=True)
class Settings:
    """Defaults for seconds on one core; ``PUBLISHED`` where they differ."""

    widths: tuple[int, ...] = (6, 8, 12, 12)
    n_inputs: int = 1
    n_classes: int = 3
    n_shifts: int = 3  # the paper; the official code has 5
    sparsity: float = 0.7
    sparsity_of_48: float | None = None  # the official code on AMOS: 0.8 where dimension 0 is 48
    drop_fraction: float = 0.5
    last_drop_fraction: float = 0.001
    interval: int = 4
    n_epochs: int = 5
    steps_an_epoch: int = 4
    batch_size: int = 2
    side: int = 16  # of the volume; each level but the first halves it
    seed: int = 0

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.n_epochs * self.steps_an_epoch


PUBLISHED = Settings(
    widths=(48, 96, 192, 320, 320, 320),
    n_classes=16,
    sparsity_of_48=0.8,
    interval=1200,
    n_epochs=1000,
    steps_an_epoch=250,
    side=128,
)


def e2enet(
    model: nn.Module, optimizer: torch.optim.Optimizer, s: Settings
) -> regrow.TopologyUpdater:
    """The composition: what is sparse, how much of it, and how it is rewired."""
    fusion = ["fuse.*.conv.weight", "up.*.weight"]
    sparsities = {}
    for name, weight in model.named_parameters():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in fusion):
            special = weight.shape[0] == 48 and s.sparsity_of_48 is not None
            n_kernels = weight.shape[0] * weight.shape[1]
            n_active = round((1 - (s.sparsity_of_48 if special else s.sparsity)) * n_kernels)
            sparsities[name] = 1 - n_active / n_kernels
    layers = regrow.sparsify_(
        model,
        sparsity=None,
        allocation=regrow.explicit(sparsities),
        structure=regrow.Kernel(),
        select=fusion,
        seed=s.seed,
    )
    rule = regrow.Rule(
        drop=regrow.criteria.magnitude,  # of a unit: summed, the L1 norm of the kernel
        grow=regrow.criteria.random,
        drop_fraction=regrow.schedules.cosine(s.drop_fraction, s.last_drop_fraction, end=s.n_steps),
        window=regrow.schedules.UpdateWindow(interval=s.interval, stop=s.n_steps + 1),
        budget=regrow.per_layer(rounding="up"),
    )
    part = regrow.training.Part(list(layers.values()), rule)
    return regrow.TopologyUpdater(model, optimizer, parts=[part], seed=s.seed)


class Unit(nn.Module):
    """Shift along depth, convolution within slices, norm, leaky ReLU."""

    def __init__(self, n_in: int, n_out: int, n_shifts: int, *, stride: int = 1) -> None:
        super().__init__()
        self.n_shifts = n_shifts if n_in >= n_shifts else 1
        self.conv = nn.Conv3d(n_in, n_out, (1, 3, 3), stride=stride, padding=(0, 1, 1))
        self.norm = nn.InstanceNorm3d(n_out, affine=True)
        nn.init.kaiming_normal_(self.conv.weight, a=0.01)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Each group of channels sees the next slice: -1, 0, +1 where there are three."""
        parts = x.chunk(self.n_shifts, dim=1)
        moved = [shift(part, g - self.n_shifts // 2) for g, part in enumerate(parts)]
        return F.leaky_relu(self.norm(self.conv(torch.cat(moved, dim=1))), 0.01)


def shift(x: Tensor, by: int) -> Tensor:
    """``x`` (batch, channel, depth, height, width) moved along depth; zeros move in."""
    return F.pad(x, (0, 0, 0, 0, by, -by))


class E2ENet(nn.Module):
    """Encoder, and a lattice whose node (level i, stage j) fuses levels i - 1, i and i + 1."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.n_levels, w = len(s.widths), s.widths
        self.encoder, self.fuse, self.up = nn.ModuleList(), nn.ModuleDict(), nn.ModuleDict()
        for i, n_in in enumerate((s.n_inputs, *w[:-1])):
            first = Unit(n_in, w[i], s.n_shifts, stride=2 if i else 1)
            self.encoder.append(nn.Sequential(first, Unit(w[i], w[i], s.n_shifts)))
        for j in range(1, self.n_levels):
            for i in range(self.n_levels - j):
                units = [Unit(2 * w[i] + (w[i - 1] if i else 0), w[i], s.n_shifts)]
                if i + j == self.n_levels - 1:
                    units.append(Unit(w[i], w[i], s.n_shifts))
                self.fuse[f"{i}_{j}"] = nn.Sequential(*units)
                self.up[f"{i}_{j}"] = nn.ConvTranspose3d(w[i + 1], w[i], 2, stride=2, bias=False)
        heads = [nn.Conv3d(n, s.n_classes, 1, bias=False) for n in w[: self.n_levels - 2]]
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits (batch, class, depth, height, width) at each resolution, finest first."""
        nodes = []
        for encode in self.encoder:
            nodes.append(encode(nodes[-1] if nodes else x))
        for j in range(1, self.n_levels):
            before = nodes
            for i in range(self.n_levels - j):
                inputs = [before[i], self.up[f"{i}_{j}"](before[i + 1])]
                if i:
                    inputs.append(F.max_pool3d(before[i - 1], 2))
                nodes = [*nodes[:i], self.fuse[f"{i}_{j}"](torch.cat(inputs, 1)), *nodes[i + 1 :]]
        return [head(node) for head, node in zip(self.heads, nodes, strict=False)]


def loss_of(logits: list[Tensor], labels: Tensor) -> Tensor:
    """Soft Dice and cross-entropy at each resolution, weighted 1, 1/2, 1/4 and so on."""
    total, weights = torch.zeros(()), [0.5**i for i in range(len(logits))]
    for weight, logit in zip(weights, logits, strict=True):
        small = F.interpolate(labels[:, None].float(), logit.shape[2:]).long()[:, 0]
        truth = F.one_hot(small, logit.shape[1]).movedim(-1, 1)[:, 1:]
        guess = logit.softmax(1)[:, 1:]
        both = (guess * truth).sum((0, 2, 3, 4))
        dice = 2 * both / (guess.sum((0, 2, 3, 4)) + truth.sum((0, 2, 3, 4)) + 1e-5)
        total = total + weight * (F.cross_entropy(logit, small) - dice.mean())
    return total / sum(weights)


def volumes(s: Settings, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise in which some boxes are brighter, the more the higher their class."""
    labels = torch.zeros(s.batch_size, s.side, s.side, s.side, dtype=torch.int64)
    for one in labels:
        for k in range(1, s.n_classes):
            z, y, x = torch.randint(0, s.side // 2, (3,), generator=generator).tolist()
            one[z : z + s.side // 2, y : y + s.side // 2, x : x + s.side // 2] = k
    noise = torch.randn(s.batch_size, s.n_inputs, *labels.shape[1:], generator=generator)
    return noise * 0.3 + labels[:, None], labels


def main(s: Settings = Settings()) -> regrow.TopologyUpdater:
    """Train, and print what happened."""
    torch.manual_seed(s.seed)
    generator = torch.Generator().manual_seed(s.seed)
    model = E2ENet(s)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5
    )
    updater = e2enet(model, optimizer, s)
    for epoch in range(s.n_epochs):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - epoch / s.n_epochs) ** 0.9
        for _ in range(s.steps_an_epoch):
            inputs, labels = volumes(s, generator)
            loss = loss_of(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 12.0)
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}, sparsity {updater.sparsity:.4f}")
    print(updater.report())
    return updater


if __name__ == "__main__":
    main()
