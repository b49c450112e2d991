"""What each of two gloo ranks runs on truly sparse models; started as a script, once for all.

``python compact.py RANK FOLDER`` writes ``FOLDER/compact{RANK}.pt`` and, of the last case,
``FOLDER/last{RANK}.pt``: case name -> results.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from compact_cases import OPTIMIZERS, SPARSITY, Batch, batches, linear_net, loss_of
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import regrow
from regrow.topology import TopologyDelta

N_STEPS, SIZE = 10, 12
SCHEDULE = {"n_steps": N_STEPS, "interval": 2, "stop_at": 1.0, "drop_fraction": 0.5}
METHODS: dict[str, Callable[..., regrow.TopologyUpdater]] = {
    "static": lambda net, optimizer, **k: regrow.static(net, optimizer, sparsity=SPARSITY, **k),
    "set": lambda net, optimizer, **k: regrow.set_training(
        net, optimizer, sparsity=SPARSITY, **SCHEDULE, **k
    ),
    "rigl": lambda net, optimizer, **k: regrow.rigl(
        net, optimizer, sparsity=SPARSITY, **SCHEDULE, **k
    ),
    "rigl-before": lambda net, optimizer, **k: regrow.rigl(
        net, optimizer, sparsity=SPARSITY, weight_step="before", **SCHEDULE, **k
    ),
}
RESIZING: dict[str, tuple[float, Callable[..., regrow.TopologyUpdater]]] = {
    "granet": (0.5, lambda n, o: regrow.granet(n, o, sparsity=SPARSITY, **SCHEDULE)),
    "gradual": (
        0.0, lambda n, o: regrow.gradual(n, o, sparsity=SPARSITY, n_steps=N_STEPS, interval=2),
    ),
    "mest": (
        1 - 1.1 * (1 - SPARSITY), lambda n, o: regrow.mest(n, o, sparsity=SPARSITY, **SCHEDULE),
    ),
}  # fmt: skip
TABLE = [(method, one) for method in METHODS for one in ("momentum", "adamw")]
WRAPS = [(view, first) for view in (True, False) for first in (True, False)]


def global_batches() -> list[Batch]:
    """What both ranks see together."""
    return batches(N_STEPS, size=2 * SIZE)


def share_of(batch: Batch, rank: int) -> Batch:
    """One rank's half of a batch."""
    return tuple(part[rank * SIZE : (rank + 1) * SIZE] for part in batch)  # type: ignore[return-value]


def net_of(sparsity: float = SPARSITY, *, seed: int = 0, topology_seed: int = 7) -> nn.Module:
    """A truly sparse net."""
    net = linear_net(seed)
    regrow.compress_(net, sparsity=sparsity, seed=topology_seed)
    return net


def result_of(net: nn.Module, updater: regrow.TopologyUpdater) -> dict[str, Any]:
    """What is compared."""
    return {
        "state": {name: value.clone() for name, value in net.state_dict().items()},
        "history": [[r.step, *r.n_dropped, *r.n_grown, *r.nnz] for r in updater.history],
        "steps": updater.steps,
    }


def train(
    method: str,
    optimizer_name: str,
    data: list[Batch],
    *,
    wrap: Callable[[nn.Module], nn.Module] = lambda net: net,
    wrap_first: bool = True,
    accumulate: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Train by the plain loop."""
    net = net_of(seed=seed)
    optimizer = OPTIMIZERS[optimizer_name](net.parameters())
    model = wrap(net) if wrap_first else net
    updater = METHODS[method](model, optimizer, seed=3)
    model = model if wrap_first else wrap(net)
    topologies = []
    for x, y in data:
        if accumulate:
            half = len(x) // 2
            waits = model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
            with waits:
                (loss_of(model, (x[:half], y[:half])) / 2).backward()
            (loss_of(model, (x[half:], y[half:])) / 2).backward()
        else:
            loss_of(model, (x, y)).backward()
        optimizer.step()
        optimizer.zero_grad()
        topologies.append({n: t.indices for n, t in updater.topologies.items()})
    return {**result_of(net, updater), "topologies": topologies}


def error_of(run: Callable[[], object]) -> str:
    """What it raises."""
    try:
        run()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def _refused(name: str, rank: int) -> dict[str, Any]:
    """Methods that change counts: refused, at once or by the first rewiring, nothing changed."""
    initial, method = RESIZING[name]
    net = net_of(initial)
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    model = DistributedDataParallel(net)
    nnz = net[0].nnz
    steps = 0

    def run() -> None:
        nonlocal steps
        method(model, optimizer)
        for batch in global_batches():
            optimizer.zero_grad()
            loss_of(model, share_of(batch, rank)).backward()
            optimizer.step()
            steps += 1

    error = error_of(run)
    same = net[0].nnz == nnz == net[0].values.numel()
    return {"error": error, "steps": steps, "same": same}


def _edits(rank: int) -> dict[str, Any]:
    net = net_of()
    optimizer = OPTIMIZERS["momentum"](net.parameters())
    model = DistributedDataParallel(net)
    updater = METHODS["static"](model, optimizer, seed=3)
    topology = updater.topologies["0.weight"]
    free, units = topology.free.nonzero().squeeze(1), topology.units
    found = {
        "resize": error_of(lambda: updater.edit({"0.weight": TopologyDelta(units[:2], free[:1])})),
        "differ": error_of(
            lambda: updater.edit({"0.weight": TopologyDelta(units[:2], free[rank : rank + 2])})
        ),
        "untouched": updater.topologies["0.weight"] == topology and not updater.history,
    }
    updater.edit({"0.weight": TopologyDelta(units[:2], free[:2])})
    for batch in global_batches()[:2]:
        optimizer.zero_grad()
        loss_of(model, share_of(batch, rank)).backward()
        optimizer.step()
    return {**found, **result_of(net, updater)}


def _sharded() -> dict[str, Any]:
    net = net_of()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fully_shard(net)
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    error = error_of(lambda: METHODS["rigl"](net, optimizer))
    hooks = bool(optimizer._optimizer_step_pre_hooks)
    return {"error": error, "hooks": hooks, "n": len(before)}


def _other_topologies(method: str, rank: int) -> dict[str, Any]:
    """DDP copies rank 0's values and not its topology: the models are two."""
    net = net_of(topology_seed=7 + rank)
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    model = DistributedDataParallel(net)

    def run() -> None:
        METHODS[method](model, optimizer, seed=3)
        for batch in global_batches()[:3]:
            optimizer.zero_grad()
            loss_of(model, share_of(batch, rank)).backward()
            optimizer.step()

    return {"error": error_of(run)}


class Rare(nn.Module):
    """Rank 1 leaves a layer out on some steps."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.body = nn.Linear(24, 24).double()
        self.rare = nn.Linear(24, 24).double()
        self.head = nn.Linear(24, 6).double()
        self.rank, self.n = rank, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n += 1
        h = self.body(x).relu()
        if not (self.rank == 1 and self.n % 2 == 0):
            h = h + self.rare(h)
        return self.head(h)


def _unused_on_one(rank: int) -> dict[str, Any]:
    torch.manual_seed(0)
    net = Rare(rank)
    regrow.compress_(net, sparsity=SPARSITY, seed=7)
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    model = DistributedDataParallel(net, find_unused_parameters=True)
    updater = METHODS["rigl"](model, optimizer, seed=3)
    try:
        for batch in global_batches()[:5]:
            optimizer.zero_grad()
            loss_of(model, share_of(batch, rank)).backward()
            optimizer.step()
    except RuntimeError as error:
        return {"error": str(error)[:200]}
    return {"error": "", **result_of(net, updater)}


def _cases(rank: int) -> Iterator[tuple[str, dict[str, Any]]]:
    data = [share_of(batch, rank) for batch in global_batches()]
    for method, optimizer in TABLE:
        # DDP copies rank 0's values.
        yield (
            f"{method}/{optimizer}",
            train(method, optimizer, data, wrap=DistributedDataParallel, seed=rank),
        )
    for view, first in WRAPS:
        yield (
            f"rigl/view={view}/first={first}",
            train(
                "rigl",
                "momentum",
                data,
                wrap=lambda net: DistributedDataParallel(net, gradient_as_bucket_view=view),  # noqa: B023
                wrap_first=first,
                accumulate=view,
            ),
        )
    for name in RESIZING:
        yield name, _refused(name, rank)
    yield "edits", _edits(rank)
    yield "sharded", _sharded()
    for method in ("static", "set"):
        yield f"other topologies/{method}", _other_topologies(method, rank)


def main(rank: int, folder: Path) -> None:
    """Run all cases as one of two ranks."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2,
        timeout=timedelta(seconds=20),
    )  # fmt: skip
    try:
        torch.save(dict(_cases(rank)), folder / f"compact{rank}.pt")
        # Last of all: where ranks wait for each other here, the group is broken behind it.
        torch.save({"unused on one": _unused_on_one(rank)}, folder / f"last{rank}.pt")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
