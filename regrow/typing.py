"""The types that packages share: shapes, schedules, criteria and the layer protocols."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from regrow.topology import Topology, TopologyDelta

Shape = tuple[int, ...]
Schedule = Callable[[int], float]
"""Optimizer step -> value; pure."""
StateDict = dict[str, Any]
"""Tensors, numbers, strings, lists and dicts only: loads with ``weights_only=True``."""
WeightStep = Literal["before", "after", "skip"]
"""What a rewiring step does to the weights: step first, step afterwards, or no step at all."""
Regrow = Literal["keep", "zero", "never"]
"""What happens to a unit that is dropped and chosen again in one rewiring."""


class LayerView(Protocol):
    """What a criterion may see of a layer. Positions are flat, row-major element indices."""

    name: str
    topology: Topology
    grad_is_local: bool

    @property
    def generator(self) -> torch.Generator:
        """The CPU generator of this layer in this rewiring; draws advance it."""

    @property
    def has_grad(self) -> bool:
        """Whether a gradient of the dense loss is at hand."""

    @property
    def holds_dense(self) -> bool:
        """Whether ``weight_at`` and ``grad_at`` also take ``slice(None)``, without a copy."""

    def weight_at(self, flat: Tensor) -> Tensor:
        """Weights at positions ``flat`` (n,) -> (n,)."""

    def grad_at(self, flat: Tensor) -> Tensor:
        """Gradient of the dense loss at any positions ``flat`` (n,) -> (n,)."""

    def ever_active_at(self, flat: Tensor) -> Tensor:
        """Whether the unit of each position (n,) was ever active -> (n,) bool."""

    def state_at(self, key: str, flat: Tensor) -> Tensor:
        """Optimizer state, such as ``"momentum_buffer"``, at positions ``flat`` (n,) -> (n,)."""


@runtime_checkable
class SparseLayer(LayerView, Protocol):
    """What the updater drives: one weight with a topology, however it is stored."""

    def commit(self, new: Topology, delta: TopologyDelta, optimizer: Optimizer | None) -> None:
        """Make ``new`` the topology; weights and optimizer state follow ``delta``."""

    def mask_grad(self) -> None:
        """Leave gradient on active positions only."""

    def enforce(self, optimizer: Optimizer | None) -> None:
        """Put inactive weights back to zero and their optimizer state to fresh."""


Criterion = Callable[[LayerView, Tensor], Tensor]
"""(layer, flat positions (n,)) -> scores (n,); high survives or enters."""
