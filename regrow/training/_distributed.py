"""What ranks must agree on: whether to rewire, and what was decided."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from regrow._sharding import is_sharded
from regrow.errors import RankMismatchError, SparsityError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from regrow.topology import TopologyDelta
    from regrow.training._layer import Layer

ProcessGroup = dist.ProcessGroup | None | Literal["auto"]
"""``"auto"``: the group of a DDP module passed as model, the ranks of a sharded model's mesh, else
the default group where there is one. None: no other rank takes part, for ranks that train
different models."""


def check_group(group: object, layers: Sequence[Layer]) -> None:
    """Refuse what names no group, before anything changes.

    Raises:
        ValueError: A text other than ``"auto"``.
        SparsityError: None, where ranks share the weights.
    """
    if isinstance(group, str) and group != "auto":
        raise ValueError(f"process_group must be 'auto', a process group or None, got {group!r}")
    if group is None:
        for layer in layers:
            if is_sharded(layer.parameter):
                raise SparsityError(
                    f"process_group=None is for ranks that train different models, and "
                    f"{layer.name!r} is split over ranks: leave process_group out"
                )


def _mesh_group(mesh: DeviceMesh) -> dist.ProcessGroup | None:
    """The ranks of a mesh."""
    if mesh.ndim == 1:
        return mesh.get_group()
    if mesh.size() == dist.get_world_size():
        return dist.group.WORLD
    raise SparsityError(
        f"the weights are split over a mesh of {tuple(mesh.shape)} ranks among "
        f"{dist.get_world_size()}: pass process_group= with the group of these ranks"
    )


def resolve_group(
    model: nn.Module, group: ProcessGroup, layers: Sequence[Layer]
) -> dist.ProcessGroup | None:
    """The group whose ranks must decide alike, or None where there is but this one."""
    if group is None or not dist.is_available() or not dist.is_initialized():
        return None
    if group == "auto":
        own = model.process_group if isinstance(model, DistributedDataParallel) else None
        sharded = next((x.parameter for x in layers if is_sharded(x.parameter)), None)
        if sharded is not None:
            own = _mesh_group(sharded.device_mesh)  # type: ignore[attr-defined]
        group = own if own is not None else dist.group.WORLD
    if group is None or dist.get_world_size(group) == 1:
        return None
    return group


def check_resizable(
    layers: Sequence[Layer],
    deltas: Sequence[TopologyDelta | None],
    *,
    group: dist.ProcessGroup | None,
) -> None:
    """Refuse to change the size of values that other ranks have in their gradient buckets.

    Raises:
        SparsityError: A truly sparse layer would get another number of connections.
    """
    if group is None:
        return
    for layer, delta in zip(layers, deltas, strict=True):
        resizes = delta is not None and delta.dropped.numel() != delta.grown.numel()
        if resizes and layer.topology.is_compact:
            raise SparsityError(no_resize(layer.name))


def no_resize(name: str) -> str:
    """Why the number of connections of a truly sparse layer cannot change over ranks."""
    return (
        f"{name!r} is truly sparse and would get another number of connections: over several ranks "
        "that cannot be, since DistributedDataParallel fixes the sizes of parameters when it is "
        "made; keep the layer masked (leave it out of compress_), or use a method that keeps the "
        "count of each layer, such as rigl or set_training"
    )


def true_on_all(*, flag: bool, group: dist.ProcessGroup | None, device: torch.device) -> bool:
    """Whether ``flag`` holds on every rank of the group."""
    if group is None:
        return flag
    votes = torch.tensor(int(flag), device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MIN, group=group)
    return bool(votes.item())


def check_same_on_all(
    tensors: Iterable[Tensor], *, group: dist.ProcessGroup | None, device: torch.device, step: int
) -> None:
    """Compare a checksum of the tensors across ranks; a few bytes are exchanged.

    Raises:
        RankMismatchError: On every rank, where any rank's tensors differ.
    """
    if group is None:
        return
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(tensor.cpu().numpy().tobytes())
        digest.update(b"|")
    own = int.from_bytes(digest.digest(), "little") >> 1
    ends = torch.tensor([own, -own], device=device)
    dist.all_reduce(ends, op=dist.ReduceOp.MAX, group=group)
    if int(ends[0]) != own or -int(ends[1]) != own:
        raise RankMismatchError(
            f"ranks decided different topologies at step {step}: gradients must be averaged over "
            "ranks before optimizer.step(), and seed (of compress_ too), model and schedule be the "
            "same on each; "
            "ranks that train different models pass process_group=None"
        )
