"""What each of two gloo ranks runs; started as a script, once for all cases.

``python ranks.py RANK FOLDER`` writes ``FOLDER/rank{RANK}.pt``: case name -> results.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny_cases import (
    METHODS,
    MORE_OPTIMIZERS,
    OPTIMIZERS,
    as_list,
    batches,
    check_dead,
    fresh_state,
    loss_of,
    masks_of,
    tiny_net,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import regrow

N_STEPS = 21  # behind the last rewiring of the schedules that stop at 3/4 of 30
SIZE = 8  # of the batch of each of the two ranks
ALL = {**OPTIMIZERS, **MORE_OPTIMIZERS}
TABLE = [(method, optimizer) for method in METHODS for optimizer in OPTIMIZERS]
TABLE += [(method, "muon+adamw") for method in ("set", "rigl", "granet-gradient")]
Batch = tuple[Tensor, Tensor]


def global_batches() -> list[Batch]:
    """What both ranks see together."""
    return batches(N_STEPS, size=2 * SIZE, dtype=torch.float64)


def share_of(batch: Batch, rank: int) -> Batch:
    """One rank's half of a batch."""
    x, y = batch
    return x[rank * SIZE : (rank + 1) * SIZE], y[rank * SIZE : (rank + 1) * SIZE]


def micro_batches(batch: Batch) -> list[Batch]:
    """A batch in two halves."""
    x, y = batch
    half = len(x) // 2
    return [(x[:half], y[:half]), (x[half:], y[half:])]


def result_of(net: nn.Module, updater: regrow.TopologyUpdater) -> dict[str, Any]:
    """What is compared: masks, weights, history."""
    return {
        "masks": masks_of(updater),
        "weights": {name: value.clone() for name, value in net.state_dict().items()},
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
    """Train, by the plain loop, on a model that ``wrap`` may distribute."""
    net = tiny_net(seed, dtype=torch.float64)
    make = ALL[optimizer_name]
    optimizer = make(net.parameters())
    fresh = fresh_state(make, net)
    if wrap_first:
        model = wrap(net)
        updater = METHODS[method](model, optimizer, seed=5)
    else:
        updater = METHODS[method](net, optimizer, seed=5)
        model = wrap(net)
    masks = []
    for batch in data:
        if accumulate:
            _accumulate(model, batch)
        else:
            loss_of(model, batch).backward()
        for one in as_list(optimizer):
            one.step()
        for one in as_list(optimizer):
            one.zero_grad()
        check_dead(net, optimizer, updater, fresh)
        masks.append(masks_of(updater))
    return {**result_of(net, updater), "all_masks": masks}


def _accumulate(model: nn.Module, batch: Batch) -> None:
    first, second = micro_batches(batch)
    if isinstance(model, DistributedDataParallel):
        with model.no_sync():
            (loss_of(model, first) / 2).backward()
    else:
        (loss_of(model, first) / 2).backward()
    (loss_of(model, second) / 2).backward()


def _cases(rank: int) -> Iterator[tuple[str, dict[str, Any]]]:
    data = [share_of(batch, rank) for batch in global_batches()]
    for method, optimizer in TABLE:
        yield f"{method}/{optimizer}", train(method, optimizer, data, wrap=DistributedDataParallel)
    for bucket_view in (True, False):
        for wrap_first in (True, False):
            for method in ("rigl", "set"):
                result = train(
                    method,
                    "sgd",
                    data,
                    wrap=lambda net: DistributedDataParallel(
                        net,
                        gradient_as_bucket_view=bucket_view,  # noqa: B023
                    ),
                    wrap_first=wrap_first,
                    seed=rank,  # DDP copies rank 0's weights; the topology must not care
                    accumulate=bucket_view,
                )
                yield f"{method}/view={bucket_view}/first={wrap_first}", result
    yield "growth", growth_of_one_rewiring(rank)
    yield "mismatch", {"error": _mismatch(rank)}
    yield "alone", _alone(rank)
    yield "not finite", _not_finite_on_one(rank)


def growth_of_one_rewiring(rank: int) -> dict[str, Any]:
    """B7: one RigL rewiring, with both ranks' gradients to compare with."""
    net = tiny_net(dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    updater = regrow.rigl(
        net, optimizer, sparsity=0.7, n_steps=10, interval=1, drop_fraction=0.5, regrow="never"
    )
    old = masks_of(updater)
    batch = share_of(global_batches()[0], rank)
    model = DistributedDataParallel(net)
    plain = tiny_net(dtype=torch.float64)
    plain.load_state_dict(net.state_dict())
    loss_of(plain, batch).backward()
    local = {name: plain.get_parameter(name).grad.clone() for name in old}
    loss_of(model, batch).backward()
    optimizer.step()
    return {"old": old, "new": masks_of(updater), "local": local}


def _mismatch(rank: int) -> str:
    """Ranks that do not average, and so would decide different topologies."""
    net = tiny_net(dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    regrow.rigl(net, optimizer, sparsity=0.7, n_steps=10, interval=1)
    loss_of(net, share_of(global_batches()[0], rank)).backward()
    try:
        optimizer.step()
    except regrow.errors.RankMismatchError as error:
        return str(error)
    return "no error"


def _alone(rank: int) -> dict[str, Any]:
    """``process_group=None``: ranks that train different models."""
    net = tiny_net(rank, dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    updater = regrow.rigl(net, optimizer, sparsity=0.7, n_steps=10, interval=2, process_group=None)
    for batch in global_batches()[: 4 + rank]:
        loss_of(net, share_of(batch, rank)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return result_of(net, updater)


def _not_finite_on_one(rank: int) -> dict[str, Any]:
    """A rewiring waits on every rank where one rank's gradient is not finite."""
    net = tiny_net(dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    updater = regrow.rigl(net, optimizer, sparsity=0.7, n_steps=10, interval=3)
    x, y = global_batches()[0]
    steps = []
    for i in range(1, 6):
        loss_of(net, (x, y)).backward()
        if i == 3 and rank == 1:
            grad = net.fc.weight.grad
            dead = (~updater.topologies["fc.weight"].mask).nonzero()[0]
            grad[tuple(dead)] = torch.inf  # dead, so that the weights stay finite
        optimizer.step()
        optimizer.zero_grad()
        steps.append(updater.rewirings)
    return {**result_of(net, updater), "rewirings": steps}


def main(rank: int, folder: Path) -> None:
    """Run all cases as one of two ranks."""
    from dist.sharded import sharded_cases  # it needs names of this module

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        results = dict(_cases(rank)) | dict(sharded_cases(rank, folder))
        torch.save(results, folder / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
