"""Every method with its options, and a net whose weights every structure of the table divides."""

from typing import Any

import torch
from torch import Tensor, nn

import regrow
from regrow.allocation import erdos_renyi_kernel
from regrow.methods import structures_of
from regrow.topology import Structure

N_STEPS, INTERVAL = 20, 4
SPARSITY = 0.6
SCHEDULE = {"n_steps": N_STEPS, "interval": INTERVAL}
FAST = {**SCHEDULE, "drop_fraction": 0.6}
PER_LAYER = {"budget": regrow.per_layer(allocation=erdos_renyi_kernel())}

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "static": ("static", {}),
    "set": ("set_training", FAST),
    "rigl": ("rigl", FAST),
    "mest-random": ("mest", {**FAST, "growth": "random"}),
    "mest-gradient": ("mest", {**FAST, "growth": "gradient"}),
    "granet-random": ("granet", {**FAST, "growth": "random"}),
    "granet-gradient": ("granet", FAST),
    "granet-per-layer": ("granet", {**FAST, **PER_LAYER}),
    "gradual": ("gradual", SCHEDULE),
    "gradual-per-layer": ("gradual", {**SCHEDULE, **PER_LAYER}),
}
CONSTANT = {"static", "set", "rigl"}
READS_GRADIENT = {"rigl", "mest-gradient", "granet-gradient", "granet-per-layer"}


def due_steps(method: str) -> list[int]:
    """Written out: below 3/4 of 20 steps; GraNet all the way; GMP behind the first fifth."""
    if method == "static":
        return []
    if method.startswith("gradual"):
        return [8, 12]
    return [4, 8, 12, 16] if method.startswith("granet") else [4, 8, 12]


def target(method: str, after: int) -> float:
    """Sparsity over all layers after so many steps, from the papers' formulas."""
    past = max((due for due in due_steps(method) if due <= after), default=0)
    if method in CONSTANT:
        return SPARSITY
    if method.startswith("mest"):
        return 1 - (1 - SPARSITY) * (1.1 if past < 12 else 1.0)
    first, start = (0.0, 4) if method.startswith("gradual") else (0.5, 0)
    left = min(max((12 - past) / (12 - start), 0.0), 1.0)
    return SPARSITY + (first - SPARSITY) * left**3


class Net(nn.Module):
    """Shapes that every structure of the table divides: outputs by 6, inputs by 4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 12, 3)
        self.up = nn.ConvTranspose2d(12, 12, 2, groups=3)
        self.mix = nn.MultiheadAttention(12, 2, batch_first=True)
        self.norm = nn.LayerNorm(12)
        self.mid = nn.Linear(12, 24)
        self.head = nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.up(self.conv(x).relu()).flatten(2).transpose(1, 2)
        tokens = tokens + self.mix(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(self.mid(self.norm(tokens.mean(dim=1))).relu())


NAMES = ["conv.weight", "up.weight", "mix.in_proj_weight", "mix.out_proj.weight"]
NAMES += ["mid.weight", "head.weight"]


def make_net(seed: int = 0) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net().to(memory_format=torch.channels_last)


def batches(n: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(8, 4, 5, 5, generator=generator),
            torch.randint(6, (8,), generator=generator),
        )
        for _ in range(n)
    ]


def build(
    method: str, structure: Structure, net: Net, optimizer: Any, seed: int = 6
) -> regrow.TopologyUpdater:
    name, options = METHODS[method]
    fixed = structure.fixed_sparsity is not None and method in CONSTANT
    return getattr(regrow, name)(
        net,
        optimizer,
        sparsity=None if fixed else SPARSITY,
        structure=structure,
        select=regrow.fitting(structure),
        seed=seed,
        **options,
    )


def declared(method: str, structure: Structure) -> bool:
    name, options = METHODS[method]
    return structure in structures_of(name, budget=options.get("budget"))
