"""Weights that are split over ranks by ``fully_shard``, and those that are not, in one way.

A decision needs a whole layer; everything else works on a rank's own part.
"""

from __future__ import annotations

import torch
from torch import Tensor

from regrow.errors import SparsityError


def is_sharded(tensor: object) -> bool:
    """Whether a tensor is a DTensor, as the parameters of a sharded model are."""
    return isinstance(tensor, Tensor) and hasattr(tensor, "device_mesh")


def check_placements(parameter: Tensor, name: str) -> None:
    """Refuse layouts other than whole tensors and even chunks along one dimension.

    Raises:
        SparsityError: Names the weight and its placements.
    """
    from torch.distributed.tensor import Replicate, Shard

    placements = parameter.placements  # type: ignore[attr-defined]
    if any(type(placement) not in (Replicate, Shard) for placement in placements):
        raise SparsityError(
            f"{name!r} is placed as {placements}: only Shard and Replicate are supported, as "
            "fully_shard on a mesh of one or two dimensions makes them"
        )


def local(tensor: Tensor) -> Tensor:
    """This rank's part, sharing memory; the tensor itself where it is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """The full tensor, gathered from all ranks, which must all call this; or itself."""
    if not is_sharded(tensor):
        return tensor
    return tensor.full_tensor()  # type: ignore[attr-defined, no-any-return]


def local_part(full: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a tensor that every rank holds whole, placed like another."""
    if not is_sharded(like):
        return full
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    # No source rank: each takes its own part, and nothing is sent.
    placed = distribute_tensor(full, mesh, placements, src_data_rank=None)
    return placed.to_local()


def flat_mask(shape: tuple[int, ...], flat: Tensor) -> Tensor:
    """A bool tensor of ``shape``, True at flat positions (n,)."""
    mask = torch.zeros(torch.Size(shape).numel(), dtype=torch.bool, device=flat.device)
    mask[flat] = True
    return mask.view(shape)
