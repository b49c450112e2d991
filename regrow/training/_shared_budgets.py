"""Budgets that look at all layers together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, final

import torch
from torch import Tensor

from regrow._checks import check_choice
from regrow.allocation import n_active
from regrow.errors import InfeasibleSparsityError, SparsityError
from regrow.topology import select_top
from regrow.training._budgets import (
    ROUNDINGS,
    Budget,
    Quota,
    Rounding,
    Standing,
    check_not_fixed,
    share_of,
)
from regrow.typing import LayerView


@final
@dataclass(frozen=True)
class _GlobalMagnitude:
    least: int = 1
    rounding: Rounding = "down"
    over_all_layers: ClassVar[bool] = True

    def __call__(
        self, standings: Sequence[Standing], fraction: float, target: float | None
    ) -> list[Quota]:
        kept = [standing.n_active for standing in standings]
        if target is not None:
            layers = [standing.layer for standing in standings]
            total = n_active(_n_elements(layers), target)
            if total < sum(layer.topology.nnz for layer in layers):
                kept = self._keep(standings, total)
        quotas = []
        for standing, count in zip(standings, kept, strict=True):
            n_drop = share_of(fraction, count, self.rounding) * standing.can_grow
            quotas.append(Quota(standing.n_active - count, n_drop, n_drop))
        return quotas

    def check(self, layers: Sequence[LayerView], target: float | None) -> None:
        if target is None:
            return
        check_not_fixed(layers)
        for layer in layers:
            if layer.topology.structure.even_groups:
                raise SparsityError(
                    f"{self} prunes single units of all layers together, and in {layer.name!r} "
                    f"{layer.topology.structure} keeps groups even: pass "
                    "budget=regrow.per_layer(allocation=regrow.erdos_renyi_kernel())"
                )
        total = _n_elements(layers)
        needed = sum(
            min(self.least, layer.topology.n_units) * layer.topology.unit_size for layer in layers
        )
        if n_active(total, target) < needed:
            largest = math.floor((1 - needed / total) * 1e6) / 1e6
            raise InfeasibleSparsityError(
                f"sparsity={target:g} leaves {n_active(total, target)} connections for "
                f"{len(layers)} layers that keep {self.least} each; the largest sparsity that "
                f"can be met is {largest:g}",
                largest_feasible=largest,
            )

    def _keep(self, standings: Sequence[Standing], total: int) -> list[int]:
        """Units of each layer among the best of all that hold ``total`` elements.

        ``least`` of each layer are among them. Units of different sizes compare by their mean
        element, and fill the budget as far as whole units can.
        """
        device = standings[0].scores.device
        sizes = [standing.layer.topology.unit_size for standing in standings]
        protected = []
        for standing, size in zip(standings, sizes, strict=True):
            scores = standing.scores.to(device) / size if size > 1 else standing.scores.to(device)
            safe = select_top(scores, None, min(self.least, scores.numel()))
            protected.append(scores.index_fill(0, safe, torch.inf))
        lengths = [scores.numel() for scores in protected]
        if len(set(sizes)) == 1:
            chosen = select_top(torch.cat(protected), None, total // sizes[0])
        else:
            order = torch.sort(torch.cat(protected), descending=True, stable=True).indices
            each = torch.tensor(sizes, device=device).repeat_interleave(
                torch.tensor(lengths, device=device)
            )
            chosen = _that_fit(order, each[order], total)
        bounds = torch.tensor([0, *lengths], device=device).cumsum(0)
        at = torch.searchsorted(chosen, bounds).tolist()
        return [last - first for first, last in pairwise(at)]

    def __str__(self) -> str:
        return "global_magnitude()"


def _that_fit(order: Tensor, sizes: Tensor, total: int) -> Tensor:
    """Units in their ``order``, as many as fit into ``total`` elements, ascending.

    Behind the first that does not fit, smaller ones take what room is left.
    """
    n = int((sizes.cumsum(0) <= total).sum())
    chosen, left = [order[:n]], total - int(sizes[:n].sum())
    while True:
        fit = (sizes[n:] <= left).nonzero()
        if not left or not fit.numel():
            return torch.sort(torch.cat(chosen)).values
        n += int(fit[0]) + 1
        chosen.append(order[n - 1 : n])
        left -= int(sizes[n - 1])


def _n_elements(layers: Sequence[LayerView]) -> int:
    return sum(layer.topology.n_elements for layer in layers)


def global_magnitude(*, least: int = 1, rounding: Rounding = "down") -> Budget:
    """Towards a target the lowest scores of *all* layers go; growth replaces drops per layer.

    GraNet's gradual pruning (Liu et al. 2021, section 3.2), and GMP and AC/DC in their global
    forms. Their codes compare with a threshold; here the count is exact, ties go to the earlier
    layer and lower position.

    Args:
        least: Units that stay in every layer, so that none is cut off; our own guard, 1.
        rounding: Of the units to drop: ``"down"`` or ``"up"`` (GraNet's code).

    Raises:
        ValueError: Unknown rounding.
    """
    check_choice(rounding, "rounding", ROUNDINGS)
    return _GlobalMagnitude(least, rounding)


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

    def check(self, layers: Sequence[LayerView], target: float | None) -> None:
        if target is not None:
            raise SparsityError("redistribute() keeps the total; it takes no target")
        for layer in layers:
            topology = layer.topology
            if topology.structure.n_groups(topology.shape) > 1:
                raise SparsityError(
                    f"redistribute() moves units between layers, and in {layer.name!r} "
                    f"{topology.structure} fixes the count of every group: use per_layer()"
                )
        if len({layer.topology.unit_size for layer in layers}) > 1:
            raise SparsityError(
                "redistribute() moves units between layers, and theirs are of different sizes: "
                "use per_layer(), or select layers with kernels of one size"
            )

    def __call__(
        self, standings: Sequence[Standing], fraction: float, target: float | None
    ) -> list[Quota]:
        self.check([standing.layer for standing in standings], target)
        drops = [share_of(fraction, s.n_active, "down") * s.can_grow for s in standings]
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
