"""Importance pruning: hidden neurons that receive little lose all that they receive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from regrow import Topology, TopologyDelta, TopologyUpdater
from regrow._checks import check_count
from regrow.errors import SparsityError


@final
@dataclass(frozen=True)
class ImportancePruning:
    """When importance pruning happens, and how much goes.

    Defaults are those of the official sequential code; its parallel code prunes the 10th percentile
    every 20 epochs. Either starts behind epoch 200 of 500 or more: shorter trainings need an
    earlier ``start``.

    Args:
        percentile: In (0, 100): hidden neurons whose importance is at or below this percentile of
            their layer lose their incoming connections.
        start: Epoch behind which it begins.
        every: Epochs from one pruning to the next: it is due behind the epochs
            ``start + every, start + 2 * every, ...``
        stop: Last epoch behind which it may be due; None: no such.

    Raises:
        TypeError: A number of epochs is no integer.
        ValueError: An argument is out of range.
    """

    percentile: float = 20.0
    start: int = 200
    every: int = 10
    stop: int | None = None

    def __post_init__(self) -> None:
        check_percentile(self.percentile)
        check_count(self.start, "start", least=0)
        check_count(self.every, "every")
        if self.stop is not None:
            check_count(self.stop, "stop")

    def is_due(self, epoch: int) -> bool:
        """Whether it is due between ``epoch``, counted from 1, and the next one."""
        over = epoch - self.start
        return over > 0 and over % self.every == 0 and (self.stop is None or epoch <= self.stop)


@torch.no_grad()
def neuron_importance(weight: Tensor, topology: Topology) -> Tensor:
    """Strength of each neuron: the sum of the magnitudes of its incoming weights.

    Args:
        weight: Values (nnz,) of a truly sparse layer, or a dense weight (n_out, n_in).
        topology: Of that layer, of shape (n_out, n_in).

    Returns:
        (n_out,) float64; 0 for a neuron without connections.

    Raises:
        SparsityError: The weight is of another shape, or no matrix.

    Source: Curci, Mocanu & Pechenizkiy 2021, section 3.2.

    Example:
        >>> topology = Topology(torch.tensor([0, 1, 3]), (3, 2))
        >>> neuron_importance(torch.tensor([0.5, -1.0, 2.0]), topology).tolist()
        [1.5, 2.0, 0.0]
    """
    if len(topology.shape) != 2:
        raise SparsityError(f"topology must be that of a matrix, got the shape {topology.shape}")
    if tuple(weight.shape) == topology.shape:
        weight = weight.reshape(-1)[topology.indices]
    elif weight.shape != (topology.nnz,):
        raise SparsityError(
            f"weight must have shape ({topology.nnz},) or {topology.shape}, "
            f"got {tuple(weight.shape)}"
        )
    row_ptr, _ = topology.csr
    # Sums of each row alone, and not differences of one running sum: exact zeros stay zero.
    return torch.segment_reduce(weight.detach().abs().double(), "sum", offsets=row_ptr, initial=0.0)


def importance_pruning(
    updater: TopologyUpdater, layers: Sequence[str], *, percentile: float = 20.0
) -> dict[str, int]:
    """Drop all incoming connections of the hidden neurons that receive least.

    The percentile is taken over all neurons of a layer, those without connections included. Once
    that share of them receives nothing it is 0, and nothing more is dropped; random growth may
    bring neurons back, and then some go again. The strongest neurons of a layer stay whatever the
    percentile. What goes is gone for good: rewiring keeps the new
    count. Biases stay, and so do outgoing connections, as in the official code.

    Args:
        updater: Of the model, between two steps; masked or truly sparse layers.
        layers: Names of weights of hidden layers, such as ``"0.weight"``; the output layer is for
            the caller to leave out. ``hidden_weights`` lists them.
        percentile: In (0, 100). Official code: 20, and 10 where it trains in parallel.

    Returns:
        Name -> connections dropped.

    Raises:
        SparsityError: A name is no layer's, is none of a matrix, or the topology is not
            unstructured; nothing was changed.
        ValueError: ``percentile`` is out of range.

    Source: Curci, Mocanu & Pechenizkiy 2021, "Truly sparse neural networks at scale", section 3.2.
    """
    check_percentile(percentile)
    unknown = [name for name in layers if name not in updater.topologies]
    if unknown:
        raise SparsityError(
            f"layers names {unknown[0]!r}, which is no layer of the updater; there are: "
            + ", ".join(list(updater.topologies)[:10])
        )
    deltas = {
        name: _decide(updater.parameters[name], updater.topologies[name], percentile)
        for name in layers
    }
    if any(not delta.is_empty for delta in deltas.values()):
        updater.edit(deltas)
    return {name: delta.dropped.numel() for name, delta in deltas.items()}


def prune_if_due(
    pruning: ImportancePruning | None,
    updater: TopologyUpdater,
    layers: Sequence[str],
    *,
    epoch: int,
) -> int:
    """Prune between ``epoch`` and the next one, where that is due; the connections dropped."""
    if pruning is None or not pruning.is_due(epoch):
        return 0
    return sum(importance_pruning(updater, layers, percentile=pruning.percentile).values())


def _decide(weight: nn.Parameter, topology: Topology, percentile: float) -> TopologyDelta:
    importance = neuron_importance(weight, topology)
    if topology.unit_size != 1:
        raise SparsityError(
            f"importance pruning drops single connections; the units of {topology.structure} are "
            f"of {topology.unit_size}"
        )
    # (torch's quantile takes 16 million neurons at most.)
    threshold = float(np.percentile(importance.cpu().numpy(), percentile))
    row_ptr, _ = topology.csr
    # At 0 the share is reached: a neuron that receives only zeros was grown just now. Where the
    # strongest are at the percentile too they stay, or the layer would be cut.
    goes = (importance <= threshold) & (importance < importance.max()) & (threshold > 0)
    flags = torch.repeat_interleave(goes, row_ptr.diff(), output_size=topology.nnz)
    dropped = topology.units[flags]
    return TopologyDelta(dropped, dropped[:0])


def check_percentile(percentile: float) -> None:
    """Raise ``ValueError`` unless it lies in (0, 100)."""
    if not 0 < percentile < 100:
        raise ValueError(f"percentile must lie in (0, 100), got {percentile!r}")
