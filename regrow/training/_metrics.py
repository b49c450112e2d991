"""Who listens to metrics, and the gradient norm that is measured for them alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from regrow._checks import check_count
from regrow._sharding import is_sharded, local, local_part
from regrow.accounting import Report, metrics_of
from regrow.training._layer import Layer

MetricsCallback = Callable[[int, Mapping[str, float]], object]
"""(optimizer step, flat name -> number); see ``TopologyUpdater.on_metrics``."""


@final
@dataclass(frozen=True)
class _Listener:
    callback: MetricsCallback
    every: int | None
    per_layer: bool

    def hears(self, step: int, *, rewires: bool) -> bool:
        return rewires if self.every is None else step % self.every == 0


@final
@dataclass(frozen=True)
class GradNorms:
    """L2 norms of the gradient over live entries.

    Args:
        step: The performed step they were measured on.
        by_layer: Layer name -> norm; without layers that had no gradient.
    """

    step: int
    by_layer: Mapping[str, float]

    @property
    def total(self) -> float | None:
        """Over all layers, or None where none had a gradient."""
        return math.hypot(*self.by_layer.values()) if self.by_layer else None


@final
class Monitor:
    """Knows the listeners, and measures gradients on the steps that one of them hears of."""

    def __init__(self) -> None:
        self.norms: GradNorms | None = None
        self._listeners: list[_Listener] = []
        self._pending: dict[str, float] = {}

    def listen(self, callback: MetricsCallback, *, every: int | None, per_layer: bool) -> None:
        """Add a listener.

        Raises:
            TypeError: ``callback`` is not callable, or ``every`` no integer.
            ValueError: ``every`` is below 1.
        """
        if not callable(callback):
            raise TypeError(
                "callback must be callable with (step, metrics), got "
                f"{type(callback).__name__}: regrow.integrations.log_metrics(...) makes one of a "
                "logger"
            )
        if every is not None:
            check_count(every, "every")
        self._listeners.append(_Listener(callback, every, per_layer))

    def hears(self, step: int, *, rewires: bool) -> bool:
        """Whether somebody wants to hear of a step."""
        return any(one.hears(step, rewires=rewires) for one in self._listeners)

    def measure(self, layers: Sequence[Layer]) -> None:
        """Measure gradients that are complete, in front of the step of their optimizer."""
        self._pending |= live_grad_norms(layers)

    def drop(self) -> None:
        """Forget what belongs to a step that was not performed."""
        self._pending = {}

    def keep(self, step: int) -> None:
        """Step number ``step`` was performed: what was measured in it counts."""
        if self._pending:
            self.norms = GradNorms(step, self._pending)
            self._pending = {}

    def tell(self, step: int, *, rewired: bool, report: Callable[[], Report]) -> None:
        """Call the listeners that a performed step is for.

        Args:
            step: Its number.
            rewired: Whether it rewired.
            report: Asked once, and only if somebody listens.
        """
        hearing = [one for one in self._listeners if one.hears(step, rewires=rewired)]
        if hearing:
            made = report()
            for one in hearing:
                one.callback(step, metrics_of(made, per_layer=one.per_layer))

    def __deepcopy__(self, memo: dict[int, object]) -> Monitor:
        clone = Monitor()
        memo[id(self)] = clone
        clone.norms = self.norms
        clone._listeners = list(self._listeners)  # loggers are shared: they are not ours
        return clone


@torch.no_grad()
def live_grad_norms(layers: Sequence[Layer]) -> dict[str, float]:
    """Layer name -> L2 norm of its gradient over live entries; without layers that have none.

    Of sharded weights the norm of the whole weight: all ranks must call this.
    """
    found: dict[str, Tensor] = {}
    for layer in layers:
        grad = layer.parameter.grad
        if grad is not None:
            live = local(grad)
            if not layer.topology.is_compact:
                # Dead entries may hold anything here, on a step that rewires by gradient.
                mask = local_part(layer.topology.mask, layer.parameter)
                live = torch.where(mask, live, 0)
            wide = torch.promote_types(live.dtype, torch.float32)
            norm = torch.linalg.vector_norm(live, dtype=wide)
            found[layer.name] = _over_shards(norm, layer.parameter) / _grad_scale(layer)
    if not found:
        return {}
    device = next(iter(found.values())).device
    norms = torch.stack([norm.to(device) for norm in found.values()])
    return dict(zip(found, norms.tolist(), strict=True))


def _grad_scale(layer: Layer) -> Tensor | float:
    """With fused=True a GradScaler leaves the unscaling to the optimizer's kernel."""
    scale = getattr(layer.optimizer, "grad_scale", None)
    return 1.0 if scale is None else scale


def _over_shards(norm: Tensor, parameter: Tensor) -> Tensor:
    """The norm of a whole weight from those of the ranks' parts."""
    if not is_sharded(parameter):
        return norm
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
    partial = [Partial() if isinstance(one, Shard) else Replicate() for one in placements]
    squares = DTensor.from_local(norm.double().square(), mesh, partial, run_check=False)
    return squares.full_tensor().sqrt()
