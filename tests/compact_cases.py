"""Masked and truly sparse training of one model, side by side, in double precision."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import regrow
from regrow.topology import Structure

N_STEPS, INTERVAL, SPARSITY = 16, 3, 0.6
SCHEDULE = {"n_steps": N_STEPS, "interval": INTERVAL, "drop_fraction": 0.5}
Batch = tuple[Tensor, Tensor]

# Name -> function, its options, and the sparsity that `compress_` must have made.
METHODS: dict[str, tuple[str, dict[str, Any], float]] = {
    "static": ("static", {}, SPARSITY),
    "set": ("set_training", SCHEDULE, SPARSITY),
    "rigl": ("rigl", SCHEDULE, SPARSITY),
    "mest": ("mest", SCHEDULE, 1 - (1 - SPARSITY) * 1.1),
    "mest-gradient": ("mest", {**SCHEDULE, "growth": "gradient"}, 1 - (1 - SPARSITY) * 1.1),
    "granet": ("granet", SCHEDULE, 0.5),
    "granet-random": ("granet", {**SCHEDULE, "growth": "random"}, 0.5),
    "gradual": ("gradual", {"n_steps": N_STEPS, "interval": INTERVAL}, 0.0),
}
KEEPS_NNZ = ("static", "set", "rigl")

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, foreach=True),
    "fused-sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-2),
    "foreach-adam": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "fused-adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.003, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.02, initial_accumulator_value=0.25),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.001),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
}


def linear_net(seed: int = 0, *, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Linear layers whose weights every structure of the table divides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 24), nn.Tanh(), nn.Linear(24, 6)
        ).to(dtype)


def conv_net(seed: int = 0, *, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A strided convolution, one in groups, and a head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Unflatten(1, (4, 2, 3)),
            nn.Conv2d(4, 12, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(12, 12, (1, 2), stride=(1, 2), groups=2, padding=(0, 1), bias=False),
            nn.Flatten(),
            nn.Linear(48, 6),
        ).to(dtype)


def batches(n: int, *, size: int = 12, dtype: torch.dtype = torch.float64) -> list[Batch]:
    """``n`` batches of 24 numbers and 6 classes."""
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(size, 24, generator=generator, dtype=torch.float64).to(dtype),
            torch.randint(6, (size,), generator=generator),
        )
        for _ in range(n)
    ]


def loss_of(net: nn.Module, batch: Batch) -> Tensor:
    """The loss of one batch."""
    return nn.functional.cross_entropy(net(batch[0]), batch[1])


def plain_step(net: nn.Module, optimizer: Optimizer, batch: Batch) -> float:
    """One iteration of the plain loop; returns the loss."""
    optimizer.zero_grad()
    loss = loss_of(net, batch)
    loss.backward()
    optimizer.step()
    return loss.item()


def indices_of(updater: regrow.TopologyUpdater) -> dict[str, Tensor]:
    """Name -> flat positions of the connections."""
    return {name: topology.indices.clone() for name, topology in updater.topologies.items()}


def dense_weights(net: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Name -> the weight with its zeros, masked or truly sparse."""
    found = {}
    for name in names:
        owner = net.get_submodule(name.rpartition(".")[0])
        is_sparse = isinstance(owner, regrow.nn.SparseModule)
        weight = owner.dense_weight() if is_sparse else owner.weight.detach()
        found[name] = weight.clone().contiguous()
    return found


@dataclass
class Run:
    """What a training was: per step its loss and topologies, and its end."""

    net: nn.Module
    optimizer: Optimizer
    updater: regrow.TopologyUpdater
    losses: list[float] = field(default_factory=list)
    topologies: list[dict[str, Tensor]] = field(default_factory=list)

    def train(
        self,
        data: Sequence[Batch],
        step: Callable[[nn.Module, Optimizer, Batch], float] = plain_step,
    ) -> "Run":
        for batch in data:
            self.losses.append(step(self.net, self.optimizer, batch))
            self.topologies.append(indices_of(self.updater))
        return self


def start(
    net: nn.Module,
    method: str = "rigl",
    optimizer: str = "momentum",
    *,
    compact: bool,
    structure: Structure | None = None,
    held: float | None = None,
    **options: Any,
) -> Run:
    """Attach a method to a net, which is compressed before where ``compact``.

    Args:
        net: Changed in place.
        method: Of ``METHODS``.
        optimizer: Of ``OPTIMIZERS``.
        compact: Whether its layers are truly sparse.
        structure: What a unit is.
        held: The sparsity that ``compress_`` makes, where it is not that of the table.
        **options: Of the method.
    """
    name, given, initial = METHODS[method]
    kind = {} if structure is None else {"structure": structure}
    if options.get("allocation") is not None:
        kind["allocation"] = options["allocation"]
    fixed = structure is not None and structure.fixed_sparsity is not None
    if compact:
        regrow.compress_(
            net, sparsity=None if fixed else initial if held is None else held, seed=7, **kind
        )
    one = OPTIMIZERS[optimizer](net.parameters())
    more = {"sparsity": None if fixed else SPARSITY, "seed": 7, **given, **kind, **options}
    return Run(net, one, getattr(regrow, name)(net, one, **more))


def both(
    make: Callable[[], nn.Module] = linear_net, *arguments: Any, **options: Any
) -> tuple[Run, Run]:
    """A masked and a truly sparse run, not yet trained."""
    net = make()
    return tuple(
        start(copy.deepcopy(net), *arguments, compact=compact, **options)
        for compact in (False, True)
    )


def assert_same_runs(masked: Run, compact: Run, *, rewires: bool = True) -> None:
    """The same losses to 1e-9, and the same topologies, at every step."""
    layers = [m for m in compact.net.modules() if isinstance(m, regrow.nn.SparseModule)]
    assert layers
    assert all(t.is_compact for t in compact.updater.topologies.values())
    assert not any(t.is_compact for t in masked.updater.topologies.values())
    for i, (one, two) in enumerate(zip(masked.topologies, compact.topologies, strict=True)):
        assert list(one) == list(two)
        for name in one:
            assert torch.equal(one[name], two[name]), (i, name)
    for i, (a, b) in enumerate(zip(masked.losses, compact.losses, strict=True)):
        assert abs(a - b) <= 1e-9, (i, a, b)
    names = masked.updater.topologies
    ours = dense_weights(compact.net, names)
    for name, weight in dense_weights(masked.net, names).items():
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-9)
    assert masked.updater.history == compact.updater.history
    if rewires:
        first, last = compact.topologies[0], compact.topologies[-1]
        assert any(not torch.equal(first[n], last[n]) for n in first), "nothing moved: no test"
