"""A small model, optimizers and methods by name, and the loop that the training tests share."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import regrow

N_STEPS = 30
INTERVAL = 4
SPARSITY = 0.7
SCHEDULE = {"n_steps": N_STEPS, "interval": INTERVAL}


class TinyNet(nn.Module):
    """A convolution (channels_last), two linear layers, a norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(128, 16)
        self.norm = nn.LayerNorm(16)
        self.mid = nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(self.conv(x).relu().flatten(1))
        return self.head(self.mid(self.norm(x).relu()).relu())


def tiny_net(seed: int = 0, *, dtype: torch.dtype = torch.float32) -> TinyNet:
    """The net with seeded weights; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = TinyNet()
    return net.to(dtype=dtype, memory_format=torch.channels_last)


def batches(
    n: int, *, size: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32
) -> list[tuple[Tensor, Tensor]]:
    """``n`` batches of images and labels."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 3, 6, 6, generator=generator, dtype=torch.float64).to(dtype),
            torch.randint(4, (size,), generator=generator),
        )
        for _ in range(n)
    ]


def loss_of(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss of one batch."""
    x, y = batch
    return nn.functional.cross_entropy(net(x), y)


MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer | list[Optimizer]]


def muon_and_adamw(parameters: Iterable[nn.Parameter]) -> list[Optimizer]:
    """Muon for the matrices, AdamW for the rest."""
    listed = list(parameters)
    matrices = [p for p in listed if p.dim() == 2]
    rest = [p for p in listed if p.dim() != 2]
    return [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(rest, lr=1e-2)]


OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-3),
}
MORE_OPTIMIZERS: dict[str, MakeOptimizer] = {
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-2),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, initial_accumulator_value=0.25),
    "muon+adamw": muon_and_adamw,
}

METHODS: dict[str, Callable[..., regrow.TopologyUpdater]] = {
    "static": lambda m, o, **k: regrow.static(m, o, sparsity=SPARSITY, **k),
    "set": lambda m, o, **k: regrow.set_training(m, o, sparsity=SPARSITY, **SCHEDULE, **k),
    "rigl": lambda m, o, **k: regrow.rigl(m, o, sparsity=SPARSITY, **SCHEDULE, **k),
    "mest-random": lambda m, o, **k: regrow.mest(
        m, o, sparsity=SPARSITY, growth="random", **SCHEDULE, **k
    ),
    "mest-gradient": lambda m, o, **k: regrow.mest(
        m, o, sparsity=SPARSITY, growth="gradient", **SCHEDULE, **k
    ),
    "granet-random": lambda m, o, **k: regrow.granet(
        m, o, sparsity=SPARSITY, growth="random", **SCHEDULE, **k
    ),
    "granet-gradient": lambda m, o, **k: regrow.granet(
        m, o, sparsity=SPARSITY, growth="gradient", **SCHEDULE, **k
    ),
    "gradual": lambda m, o, **k: regrow.gradual(m, o, sparsity=SPARSITY, **SCHEDULE, **k),
}
METHOD_NAMES = [
    name
    for name in regrow.methods.__all__
    if "sparsity" in inspect.signature(getattr(regrow.methods, name)).parameters
]
CONSTANT = {"static", "set", "rigl"}
READS_GRADIENT = {"rigl", "mest-gradient", "granet-gradient"}


def due_steps(method: str) -> list[int]:
    """Steps, counted from 1, on which a rewiring is due, written out by hand."""
    if method == "static":
        return []
    if method == "gradual":
        return [10, 14, 18]
    if method.startswith("granet"):
        return [4, 8, 12, 16, 20, 24, 28]
    return [4, 8, 12, 16, 20]


def as_list(optimizer: Optimizer | Sequence[Optimizer]) -> list[Optimizer]:
    """One optimizer or several, as a list."""
    return [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)


def step(
    net: nn.Module, optimizer: Optimizer | Sequence[Optimizer], batch: tuple[Tensor, Tensor]
) -> float:
    """One iteration of the plain loop; returns the loss."""
    loss = loss_of(net, batch)
    loss.backward()
    for one in as_list(optimizer):
        one.step()
    for one in as_list(optimizer):
        one.zero_grad()
    return float(loss.detach())


def masks_of(updater: regrow.TopologyUpdater) -> dict[str, Tensor]:
    """Name -> a copy of the current mask."""
    return {name: topology.mask.clone() for name, topology in updater.topologies.items()}


def counts_of(updater: regrow.TopologyUpdater) -> dict[str, int]:
    """Name -> connections, counted in the mask."""
    return {name: int(topology.mask.sum()) for name, topology in updater.topologies.items()}


def state_tensors(
    optimizer: Optimizer | Sequence[Optimizer], parameter: nn.Parameter
) -> Iterator[tuple[str, Tensor]]:
    """Every state tensor of the parameter's shape, whichever optimizer holds it."""
    for one in as_list(optimizer):
        for key, value in one.state.get(parameter, {}).items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                yield key, value


def fresh_state(make: MakeOptimizer, net: nn.Module) -> dict[str, dict[str, float]]:
    """What a really fresh optimizer holds for weights at zero that had no gradient yet.

    Name -> state key -> value, read off an optimizer that took one step on zeros.
    """
    with torch.no_grad():
        parameters = {name: nn.Parameter(torch.zeros_like(p)) for name, p in net.named_parameters()}
    optimizer = make(parameters.values())
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    for one in as_list(optimizer):
        one.step()
    found: dict[str, dict[str, float]] = {}
    for name, parameter in parameters.items():
        found[name] = {}
        for key, value in state_tensors(optimizer, parameter):
            assert value.unique().numel() == 1, (name, key)
            found[name][key] = float(value.reshape(-1)[0])
    return found


def check_dead(
    net: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    updater: regrow.TopologyUpdater,
    fresh: dict[str, dict[str, float]],
) -> int:
    """Dead weights are zero and their state is fresh; returns the state tensors compared."""
    parameters = dict(net.named_parameters())
    n_compared = 0
    for name, topology in updater.topologies.items():
        dead = ~topology.mask
        parameter = parameters[name]
        assert not parameter.detach()[dead].any(), name
        for key, value in state_tensors(optimizer, parameter):
            want = torch.full_like(value[dead], fresh[name][key])
            assert torch.equal(value[dead], want), (name, key)
            n_compared += 1
    return n_compared


def snapshot(net: nn.Module, optimizer: Optimizer | Sequence[Optimizer]) -> list[Tensor]:
    """Copies of every tensor that training changes."""
    tensors = [value.clone() for value in net.state_dict().values()]
    for one in as_list(optimizer):
        tensors += [t.clone() for t in tensors_in(one.state_dict())]
    return tensors


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are equal bit for bit."""
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested dicts, lists and tuples."""
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)
