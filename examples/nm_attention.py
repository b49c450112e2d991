"""Attention at 2:4: of every four inputs two exist, from the first step, and RigL says which.

2:4 is the pattern that sparse tensor cores multiply. Masks alone make nothing faster: this shows
that a model trains in the pattern, which a kernel can then use.

    python examples/nm_attention.py
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

    n: int = 2
    m: int = 4
    n_symbols: int = 10
    width: int = 32
    n_heads: int = 4
    n_layers: int = 2
    length: int = 12
    n_steps: int = 200
    interval: int = 20
    batch_size: int = 64
    seed: int = 0


def sparse(
    model: nn.Module, optimizer: torch.optim.Optimizer, s: Settings
) -> regrow.TopologyUpdater:
    """RigL in an N:M pattern, on all weights whose inputs it divides; embeddings stay dense."""
    pattern = regrow.NM(s.n, s.m)
    return regrow.rigl(
        model,
        optimizer,
        sparsity=None,  # the pattern fixes it
        structure=pattern,
        select=regrow.fitting(pattern),
        n_steps=s.n_steps,
        interval=s.interval,
        seed=s.seed,
    )


class Reader(nn.Module):
    """A transformer that says which symbol is the most frequent."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.symbols = nn.Embedding(s.n_symbols, s.width)
        self.places = nn.Parameter(torch.randn(s.length, s.width) * 0.5)
        layer = nn.TransformerEncoderLayer(
            s.width, s.n_heads, 2 * s.width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, s.n_layers, enable_nested_tensor=False)
        self.head = nn.Linear(s.width, s.n_symbols)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, symbol) of symbols (batch, place)."""
        return self.head(self.body(self.symbols(x) + self.places).mean(1))


def texts(s: Settings, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random symbols, one of which, the label, is put on a third of the places."""
    symbols = torch.randint(0, s.n_symbols, (s.batch_size, s.length), generator=generator)
    labels = torch.randint(0, s.n_symbols, (s.batch_size,), generator=generator)
    places = torch.rand(s.batch_size, s.length, generator=generator).argsort(1)
    planted = labels[:, None].expand(-1, s.length // 3)
    return symbols.scatter(1, places[:, : s.length // 3], planted), labels


def main(s: Settings = Settings()) -> regrow.TopologyUpdater:
    """Train, check the pattern, and print what happened."""
    torch.manual_seed(s.seed)
    generator = torch.Generator().manual_seed(s.seed)
    model = Reader(s)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    updater = sparse(model, optimizer, s)
    for step in range(s.n_steps):
        inputs, labels = texts(s, generator)
        logits = model(inputs)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            right = (logits.argmax(1) == labels).float().mean().item()
            print(f"step {step + 1}: loss {loss.item():.3f}, accuracy {right:.3f}")
    for name, topology in updater.topologies.items():
        runs = topology.mask.view(-1, s.m).sum(1)
        print(f"{name} {topology.shape}: {int((runs == s.n).sum())} of {len(runs)} runs hold {s.n}")
    return updater


if __name__ == "__main__":
    main()
