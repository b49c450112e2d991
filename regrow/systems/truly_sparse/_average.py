"""The networks of several workers as one: averaged over the union, pruned back to the count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from regrow import Topology
from regrow.criteria import signed_magnitude
from regrow.errors import SparsityError
from regrow.topology import select_top
from regrow.typing import LayerView


def average_layers(
    topologies: Sequence[Topology], values: Sequence[Tensor], *, nnz: int
) -> tuple[Topology, Tensor]:
    """One layer of several networks, averaged: the second phase's end of WASAP-SGD.

    A connection that a network does not have counts as zero there. Of the union of all those
    ``nnz`` are kept: the same fraction of the positive weights nearest to zero goes as of the
    negative ones. Nothing of the dense size is allocated.

    Args:
        topologies: Of the layer, one of each network.
        values: (nnz of the network,) each, in the order of its topology.
        nnz: How many connections to keep; all where the union has no more.

    Returns:
        A compact topology, and its values.

    Raises:
        SparsityError: There is no network, or shapes differ.

    Source: Curci, Mocanu & Pechenizkiy 2021, "Truly sparse neural networks at scale", section 3.3.
    """
    if not topologies or len(topologies) != len(values):
        raise SparsityError(
            f"topologies and values must be of the same networks, one or more; got "
            f"{len(topologies)} and {len(values)}"
        )
    shape = topologies[0].shape
    if any(topology.shape != shape for topology in topologies):
        raise SparsityError(
            f"the layers must have one shape, got {sorted({t.shape for t in topologies})}"
        )
    every = torch.cat([topology.indices for topology in topologies])
    positions, where = torch.unique(every, return_inverse=True)
    dtype = values[0].dtype
    sums = torch.zeros(len(positions), dtype=torch.float64)
    sums.index_add_(0, where, torch.cat(list(values)).double())
    means = sums.div_(len(topologies)).to(dtype)
    if len(positions) > nnz:
        kept = select_top(
            signed_magnitude(cast("LayerView", _Weights(means)), positions), None, nnz
        )
        positions, means = positions[kept], means[kept]
    return _compact(positions, shape), means


def _compact(positions: Tensor, shape: tuple[int, ...]) -> Topology:
    n_out, n_in = shape
    edges = torch.arange(n_out + 1) * n_in
    columns = (positions % n_in).to(torch.int32)
    return Topology.from_csr(torch.searchsorted(positions, edges), columns, shape)


class _Weights:
    """What a criterion reads of the union: its weights."""

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights

    def weight_at(self, flat: Tensor) -> Tensor:
        """All of them, in the order of the positions that are asked for."""
        del flat
        return self._weights
