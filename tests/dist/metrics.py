"""What each of two gloo ranks runs for the metrics of sharded models; started as a script.

``python metrics.py RANK FOLDER`` writes ``FOLDER/rank{RANK}.pt``: case -> metrics of each step.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from dist import sharded
from tiny_cases import loss_of
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import regrow

MESHES: dict[str, dict[str, Any]] = {
    "one dimension": {"mesh_shape": (2,)},
    "replicated": {"mesh_shape": (2, 1), "mesh_dim_names": ("replicate", "shard")},
}
CASES: dict[str, Any] = {
    "rigl": lambda net, optimizer: regrow.rigl(
        net, optimizer, sparsity=0.6, n_steps=20, interval=3
    ),
    "kernel": lambda net, optimizer: regrow.set_training(
        net,
        optimizer,
        sparsity=0.5,
        n_steps=20,
        interval=3,
        structure=regrow.Kernel(),
    ),
}
N_STEPS = 7


def train(case: str, net: nn.Module, data: list[Any]) -> list[Any]:
    """Metrics of each step, those of each layer among them."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    updater = CASES[case](net, optimizer)
    told: list[Any] = []
    updater.on_metrics(
        lambda step, metrics: told.append(dict(metrics)),
        every=1,
        per_layer=True,
    )
    for batch in data:
        loss_of(net, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return told


def main(rank: int, folder: Path) -> None:
    """Run all cases as one of two ranks."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {}
    try:
        for name, shape in MESHES.items():
            mesh = init_device_mesh("cpu", **shape)
            for case in CASES:
                net = sharded.net()
                fully_shard(net.fc, mesh=mesh)
                fully_shard(net, mesh=mesh)
                data = [
                    (x[rank * 4 : rank * 4 + 4], y[rank * 4 : rank * 4 + 4])
                    for x, y in sharded.batches()[:N_STEPS]
                ]
                found[f"{case}/{name}"] = train(case, net, data)
        torch.save(found, folder / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
