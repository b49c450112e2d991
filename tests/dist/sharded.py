"""What each of two gloo ranks runs on a model that ``fully_shard`` splits; used by ``ranks.py``."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from dist import ranks
from tiny_cases import INTERVAL, loss_of, masks_of, tensors_in
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

import regrow
from regrow.topology import Structure

N_STEPS = 13  # three rewirings
SAVED_AT = 6  # between the first and the second
SCHEDULE = {"n_steps": 24, "interval": INTERVAL}
STRUCTURES: dict[str, Structure] = {
    "unstructured": regrow.Unstructured(),
    "constant fan-in": regrow.ConstantFanIn(),
    "2:4": regrow.NM(2, 4),
    "block": regrow.Block(2, 2),
    "kernel": regrow.Kernel(),
    "kernel per output": regrow.Kernel(per_output=True),
    "out channel": regrow.OutChannel(),
    "in channel": regrow.InChannel(),
    "channel groups": regrow.ChannelGroups(2),
}
Batch = tuple[Tensor, Tensor]


class ShardedNet(nn.Module):
    """Layers that most structures divide, and a head of three rows for two ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(32, 16)
        self.mid = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)
        self.one = nn.Linear(3, 1)  # a rank holds no row of it

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.up(self.conv(x).relu()).relu()).flatten(1)
        x = self.head(self.mid(self.fc(x).relu()).relu())
        return x + self.one(x)


def net(*, mesh: DeviceMesh | None = None) -> nn.Module:
    """The net, in float64, on a mesh or whole."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = ShardedNet().double()
    if mesh is not None:
        for module in (made.conv, made.fc, made.mid):
            fully_shard(module, mesh=mesh)
        fully_shard(made, mesh=mesh)
    return made


def batches() -> list[Batch]:
    """What both ranks see together."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(8, 4, 6, 6, generator=generator, dtype=torch.float64),
            torch.randint(3, (8,), generator=generator),
        )
        for _ in range(N_STEPS)
    ]


Case = tuple[str, Callable[..., regrow.TopologyUpdater], dict[str, Any], str]


def cases() -> list[Case]:
    """Key, method, its arguments, optimizer: every structure, and every method once."""
    listed: list[Case] = []
    for name, structure in STRUCTURES.items():
        fixed = structure.fixed_sparsity is not None
        options = {
            "sparsity": None if fixed else 0.6,
            "structure": structure,
            "select": regrow.fitting(structure),
            **SCHEDULE,
        }
        if not fixed:  # channels are few: each layer keeps some of them
            options["allocation"] = regrow.uniform()
        listed.append((f"rigl/{name}", regrow.rigl, options, "adamw"))
        listed.append((f"set/{name}", regrow.set_training, options, "sgd"))
    plain = {"sparsity": 0.6, **SCHEDULE}
    listed += [
        ("mest", regrow.mest, {**plain, "growth": "gradient"}, "sgd"),
        ("granet", regrow.granet, {**plain, "growth": "random"}, "rmsprop"),
        ("gradual", regrow.gradual, {**plain, "start_at": 0.0}, "adamw"),
    ]
    return listed


def train(case: Case, data: list[Batch], *, mesh: DeviceMesh | None = None) -> dict[str, Any]:
    """Train by the plain loop; masks after each step, and the whole weights at the end."""
    _, method, options, optimizer_name = case
    model = net(mesh=mesh)
    optimizer = ranks.ALL[optimizer_name](model.parameters())
    updater = method(model, optimizer, seed=5, **options)
    masks = [masks_of(updater)]
    for i, batch in enumerate(data):
        _step(model, optimizer, batch, accumulate=i % 3 == 1)
        _check_dead(model, optimizer, updater)
        masks.append(masks_of(updater))
    return {"masks": masks, "weights": _whole(model), "counts": _group_counts(updater)}


def _step(model: nn.Module, optimizer: Any, batch: Batch, *, accumulate: bool) -> None:
    if accumulate and hasattr(model, "set_requires_gradient_sync"):
        first, second = ranks.micro_batches(batch)
        model.set_requires_gradient_sync(False)
        (loss_of(model, first) / 2).backward()
        model.set_requires_gradient_sync(True)
        (loss_of(model, second) / 2).backward()
    else:
        loss_of(model, batch).backward()
    optimizer.step()
    optimizer.zero_grad()


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def _whole(model: nn.Module) -> dict[str, Tensor]:
    return {name: _full(p.detach()) for name, p in model.named_parameters()}


def _check_dead(model: nn.Module, optimizer: Any, updater: regrow.TopologyUpdater) -> None:
    parameters = dict(model.named_parameters())
    for name, topology in updater.topologies.items():
        parameter, dead = parameters[name], ~topology.mask
        assert not _full(parameter.detach())[dead].any(), name
        for key, value in optimizer.state[parameter].items():
            if value.shape == parameter.shape:
                assert not _full(value)[dead].any(), (name, key)


def _group_counts(updater: regrow.TopologyUpdater) -> dict[str, Tensor]:
    return {name: topology.counts() for name, topology in updater.topologies.items()}


def _resume(case: Case, data: list[Batch], mesh: DeviceMesh, folder: Path) -> dict[str, Any]:
    """Save half-way with torch's distributed checkpoints, load into new objects, go on."""
    _, method, options, optimizer_name = case

    def build() -> tuple[nn.Module, Any, regrow.TopologyUpdater]:
        model = net(mesh=mesh)
        optimizer = ranks.ALL[optimizer_name](model.parameters())
        return model, optimizer, method(model, optimizer, seed=5, **options)

    model, optimizer, updater = build()
    for batch in data[:SAVED_AT]:
        _step(model, optimizer, batch, accumulate=False)
    model_state, optimizer_state = get_state_dict(model, optimizer)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder / "saved")
    torch.save(updater.state_dict(), folder / f"updater{torch.distributed.get_rank()}.pt")
    for batch in data[SAVED_AT:]:
        _step(model, optimizer, batch, accumulate=False)
    straight = _local_tensors(model, optimizer, updater)

    model, optimizer, updater = build()
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state}
    dcp.load(state, checkpoint_id=folder / "saved")
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
    # Any rank's file will do: the updater's state is whole, and the same on each.
    updater.load_state_dict(torch.load(folder / "updater0.pt", weights_only=True))
    for batch in data[SAVED_AT:]:
        _step(model, optimizer, batch, accumulate=False)
    again = _local_tensors(model, optimizer, updater)
    equal = len(straight) == len(again) and all(map(torch.equal, straight, again))
    return {"equal": equal, "n_tensors": len(straight), "rewirings": updater.rewirings}


def _local_tensors(model: nn.Module, optimizer: Any, updater: Any) -> list[Tensor]:
    found = [p.detach().to_local().clone() for p in model.parameters()]
    held = tensors_in(optimizer.state_dict())
    found += [v.to_local().clone() if hasattr(v, "to_local") else v.clone() for v in held]
    return found + list(tensors_in(updater.state_dict()))


def _refusals(data: list[Batch], mesh: DeviceMesh) -> dict[str, str]:
    """Messages of what cannot work."""
    said = {}
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    regrow.rigl(model, optimizer, sparsity=0.6, **SCHEDULE)
    fully_shard(model, mesh=mesh)
    try:
        _step(model, optimizer, data[0], accumulate=False)
    except regrow.SparsityError as error:
        said["other order"] = str(error)
    model = net(mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    try:
        regrow.static(model, optimizer, sparsity=0.6, process_group=None)
    except regrow.SparsityError as error:
        said["no group"] = str(error)
    updater = regrow.static(model, optimizer, sparsity=0.6)
    said["plan"] = str(updater.plan())
    try:
        updater.plan(data[0][0])
    except regrow.SparsityError as error:
        said["flops"] = str(error)
    return said


def _evaluates_between(data: list[Batch], mesh: DeviceMesh) -> dict[str, Any]:
    """A forward pass between backward and step leaves gathered weights in place: no false alarm."""
    model = net(mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = regrow.rigl(model, optimizer, sparsity=0.6, **SCHEDULE)
    for batch in data[:5]:
        loss_of(model, batch).backward()
        with torch.no_grad():
            model(batch[0])
            model(batch[0])
        optimizer.step()
        optimizer.zero_grad()
    return {"rewirings": updater.rewirings}


def _overflow_of_one_shard(data: list[Batch], rank: int, mesh: DeviceMesh) -> dict[str, Any]:
    """A scaler leaves the first of two optimizers out on both ranks; one saw nothing amiss."""
    model = net(mesh=mesh)
    named = dict(model.named_parameters())
    first = [p for name, p in named.items() if name.startswith("fc")]
    rest = [p for name, p in named.items() if not name.startswith("fc")]
    optimizers = [torch.optim.SGD(first, lr=0.01), torch.optim.SGD(rest, lr=0.01)]
    updater = regrow.rigl(model, optimizers, sparsity=0.6, **SCHEDULE)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    steps = []
    for i, batch in enumerate(data[:5]):
        scaler.scale(loss_of(model, batch)).backward()
        if i == 1 and rank == 1:
            model.fc.weight.grad.to_local()[0, 0] = torch.inf
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        model.zero_grad()
        steps.append(updater.steps)
    return {"steps": steps, "rewirings": updater.rewirings}


def sharded_cases(rank: int, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """All cases of one of two ranks."""
    mesh = init_device_mesh("cpu", (2,))
    data = [(x[rank * 4 : rank * 4 + 4], y[rank * 4 : rank * 4 + 4]) for x, y in batches()]
    listed = cases()
    for case in listed:
        yield f"sharded/{case[0]}", train(case, data, mesh=mesh)
    for case in listed:
        if case[0] in ("rigl/constant fan-in", "set/unstructured"):
            own = folder / case[0].replace("/", "-")
            own.mkdir(exist_ok=True)
            yield f"sharded/resume/{case[0]}", _resume(case, data, mesh, own)
    yield "sharded/refusals", _refusals(data, mesh)
    yield "sharded/evaluates", _evaluates_between(data, mesh)
    yield "sharded/overflow", _overflow_of_one_shard(data, rank, mesh)
