"""Budgets: how many units each layer drops and grows in one rewiring."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol, final

import torch
from torch import Tensor

from regrow.allocation import Allocation, allocate_counts, n_active
from regrow.errors import InfeasibleSparsityError, SparsityError
from regrow.topology import select_top
from regrow.typing import LayerView


class Quota(NamedTuple):
    """Units of one layer in one rewiring.

    ``n_prune`` go towards a target and are not replaced; ``n_drop`` more make room for growth;
    ``n_grow`` enter.
    """

    n_prune: int
    n_drop: int
    n_grow: int


@final
@dataclass(frozen=True, eq=False)
class Standing:
    """A layer as a budget sees it.

    Args:
        layer: The layer.
        units: (n_active,) its active units, ascending.
        scores: (n_active,) scores of its active units by the drop criterion; low leaves first.
        can_grow: Whether growth can be scored; without a gradient it cannot by gradient.
    """

    layer: LayerView
    units: Tensor
    scores: Tensor
    can_grow: bool

    @property
    def n_active(self) -> int:
        """Active units."""
        return self.layer.topology.n_active

    @property
    def n_units(self) -> int:
        """All units."""
        return self.layer.topology.n_units


class Budget(Protocol):
    """Says what each layer drops and grows."""

    def __call__(
        self, standings: Sequence[Standing], fraction: float, target: float | None
    ) -> list[Quota]:
        """Quotas of the layers, in order.

        Args:
            standings: The layers.
            fraction: Drop fraction in [0, 1], of the units that stay after pruning.
            target: Sparsity over all layers to reach, or None where counts stay.
        """

    def check(self, layers: Sequence[LayerView], target: float) -> None:
        """Raise ``SparsityError`` if ``target`` cannot be met; called before anything changes."""


def _n_drop(standing: Standing, fraction: float, count: int) -> int:
    """Rounded down as in RigL's code; ITOP and GraNet round up, which differs by one unit."""
    return math.floor(fraction * count + 1e-9) if standing.can_grow else 0


@final
@dataclass(frozen=True)
class _PerLayer:
    allocation: Allocation | None = None

    def __call__(
        self, standings: Sequence[Standing], fraction: float, target: float | None
    ) -> list[Quota]:
        counts = [standing.n_active for standing in standings]
        if target is not None:
            counts = self._counts([standing.layer for standing in standings], target)
        quotas = []
        for standing, count in zip(standings, counts, strict=True):
            n_prune = max(standing.n_active - count, 0)
            n_drop = _n_drop(standing, fraction, min(count, standing.n_active))
            n_grow = count - (standing.n_active - n_prune - n_drop) if standing.can_grow else 0
            quotas.append(Quota(n_prune, n_drop, n_grow))
        return quotas

    def check(self, layers: Sequence[LayerView], target: float) -> None:
        self._counts(layers, target)

    def _counts(self, layers: Sequence[LayerView], target: float) -> list[int]:
        if self.allocation is None:
            raise SparsityError("per_layer() keeps counts; for a target, per_layer(allocation=...)")
        shapes = {layer.name: layer.topology.shape for layer in layers}
        structure = layers[0].topology.structure
        counts = allocate_counts(shapes, target, self.allocation, structure=structure)
        return [counts[layer.name] for layer in layers]


def per_layer(*, allocation: Allocation | None = None) -> Budget:
    """Every layer grows what it dropped (SET, RigL).

    Args:
        allocation: With a target (MEST), the rule that says each layer's count at that sparsity.
    """
    return _PerLayer(allocation)


@final
@dataclass(frozen=True)
class _GlobalMagnitude:
    least: int = 1

    def __call__(
        self, standings: Sequence[Standing], fraction: float, target: float | None
    ) -> list[Quota]:
        kept = [standing.n_active for standing in standings]
        if target is not None:
            total = n_active(sum(s.n_units for s in standings), target)
            if total < sum(kept):
                kept = self._keep(standings, total)
        quotas = []
        for standing, count in zip(standings, kept, strict=True):
            n_drop = _n_drop(standing, fraction, count)
            quotas.append(Quota(standing.n_active - count, n_drop, n_drop))
        return quotas

    def check(self, layers: Sequence[LayerView], target: float) -> None:
        n_units = sum(layer.topology.n_units for layer in layers)
        needed = sum(min(self.least, layer.topology.n_units) for layer in layers)
        if n_active(n_units, target) < needed:
            largest = math.floor((1 - needed / n_units) * 1e6) / 1e6
            raise InfeasibleSparsityError(
                f"sparsity={target:g} leaves {n_active(n_units, target)} connections for "
                f"{len(layers)} layers that keep {self.least} each; the largest sparsity that "
                f"can be met is {largest:g}",
                largest_feasible=largest,
            )

    def _keep(self, standings: Sequence[Standing], total: int) -> list[int]:
        """Counts of the ``total`` best units of all layers, ``least`` of each among them."""
        device = standings[0].scores.device
        protected = []
        for standing in standings:
            scores = standing.scores.to(device)
            safe = select_top(scores, None, min(self.least, scores.numel()))
            protected.append(scores.index_fill(0, safe, torch.inf))
        sizes = [scores.numel() for scores in protected]
        chosen = select_top(torch.cat(protected), None, total)
        bounds = torch.tensor([0, *sizes], device=device).cumsum(0)
        at = torch.searchsorted(chosen, bounds).tolist()
        return [last - first for first, last in pairwise(at)]


def global_magnitude(*, least: int = 1) -> Budget:
    """Towards a target the lowest scores of *all* layers go; growth replaces drops per layer.

    GraNet's gradual pruning (Liu et al. 2021, section 3.2), and GMP and AC/DC in their global
    forms. Their codes compare with a threshold; here the count is exact, ties go to the earlier
    layer and lower position.

    Args:
        least: Units that stay in every layer, so that none is cut off; our own guard, 1.
    """
    return _GlobalMagnitude(least)


Share = Callable[[LayerView, int], float]
"""(layer, units that stay after dropping) -> how much it claims of the growth, at least 0."""


def by_nnz(layer: LayerView, n_kept: int) -> float:
    """Growth in proportion to what is left, as DSR does (Mostafa and Wang 2019)."""
    del layer
    return float(n_kept)


def by_momentum(layer: LayerView, n_kept: int) -> float:
    """Growth in proportion to the mean |momentum| of active units, as SNFS does.

    Dettmers and Zettlemoyer 2019; their code takes the mean, their tutorial says the sum. Reads
    the optimizer state ``momentum_buffer``.
    """
    del n_kept
    flat = layer.topology.indices
    return float(layer.state_at("momentum_buffer", flat).abs().mean())


@final
@dataclass(frozen=True)
class _Redistribute:
    share: Share

    def check(self, layers: Sequence[LayerView], target: float) -> None:
        del layers, target
        raise SparsityError("redistribute() keeps the total; it takes no target")

    def __call__(
        self, standings: Sequence[Standing], fraction: float, target: float | None
    ) -> list[Quota]:
        if target is not None:
            self.check([standing.layer for standing in standings], target)
        drops = [_n_drop(standing, fraction, standing.n_active) for standing in standings]
        claims, room = [], []
        for standing, n_drop in zip(standings, drops, strict=True):
            kept = standing.n_active - n_drop
            room.append(standing.n_units - kept if standing.can_grow else 0)
            claims.append(max(self.share(standing.layer, kept), 0.0) if room[-1] else 0.0)
        grows = _spread(sum(drops), claims, room)
        return [Quota(0, n_drop, n_grow) for n_drop, n_grow in zip(drops, grows, strict=True)]


def redistribute(share: Share = by_nnz) -> Budget:
    """What all layers dropped is grown where ``share`` claims it; full layers pass on the rest.

    Args:
        share: ``by_nnz`` (DSR) or ``by_momentum`` (SNFS), or any function of that signature.
    """
    return _Redistribute(share)


def _spread(total: int, claims: Sequence[float], room: Sequence[int]) -> list[int]:
    """Split ``total`` in proportion to ``claims``, none above its ``room``."""
    given = [0] * len(claims)
    while left := total - sum(given):
        unfilled = [i for i in range(len(claims)) if given[i] < room[i]]
        weight = sum(claims[i] for i in unfilled)
        # Layers that claim nothing share what the others cannot hold.
        shares = {
            i: left * claims[i] / weight if weight else left / len(unfilled) for i in unfilled
        }
        full = [i for i in unfilled if given[i] + shares[i] >= room[i]]
        for i in full:
            given[i] = room[i]
        if full:
            continue
        whole = {i: math.floor(share) for i, share in shares.items()}
        by_remainder = sorted(unfilled, key=lambda i: whole[i] - shares[i])
        for i in by_remainder[: left - sum(whole.values())]:
            whole[i] += 1
        for i, n in whole.items():
            given[i] += n
    return given
