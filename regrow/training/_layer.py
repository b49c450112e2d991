"""The layers that an updater drives, masked or truly sparse."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from regrow._names import Owned
from regrow.topology import Topology
from regrow.training._compact import CompactWeight, Holder
from regrow.training._layers import MaskedWeight
from regrow.training._recorded import RecordedGradient

Layer = MaskedWeight | CompactWeight
DenseGrad = Tensor | RecordedGradient


def layer_of(one: Owned, topology: Topology) -> Layer:
    """The layer of a parameter.

    Args:
        one: The parameter.
        topology: Of the weight; a truly sparse one has its own.
    """
    if one.is_compact:
        return CompactWeight(one.name, [cast("Holder", module) for _, module, _ in one.owners])
    return MaskedWeight(one.name, one.parameter, topology.to(one.parameter.device))
