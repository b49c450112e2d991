"""The best units of several blocks of candidates."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from regrow.topology._select import select_top, without_nan


@final
class Best:
    """Keeps the highest scores of all that was offered, in the memory of a block and what is kept.

    Equal to ``select_top`` over all blocks at once, ties included, as long as units ascend from
    block to block.

    Args:
        k: How many: a number, or (n_groups,) int64 for each group.
        device: Of the units.
    """

    def __init__(self, k: int | Tensor, *, device: torch.device | str = "cpu") -> None:
        self._k = k
        self._device = device
        self._units: list[Tensor] = []
        self._scores: list[Tensor] = []
        self._groups: list[Tensor] = []
        self._bound: Tensor | None = None

    def offer(self, units: Tensor, scores: Tensor, groups: Tensor | None) -> None:
        """Consider a block.

        Args:
            units: (n,) int64, ascending and above those of earlier blocks.
            scores: (n,).
            groups: (n,) int64; None where ``k`` is one number.
        """
        better = self.may_enter(scores)
        if better is not None:
            units, scores = units[better], scores[better]
        self.add(units, scores, groups)

    def add(self, units: Tensor, scores: Tensor, groups: Tensor | None) -> None:
        """The same of units that ``may_enter`` was asked about."""
        if units.numel() or not self._units:
            self._units.append(units)
            self._scores.append(scores)
        if isinstance(self._k, Tensor):
            self._groups.append(groups)  # type: ignore[arg-type]
            self._cut_groups(self._k)
        elif sum(map(len, self._units)) > self._k + self._k // 4:
            # (Not after each block: it costs as much as ``k`` is large.)
            self._cut(self._k)

    def may_enter(self, scores: Tensor) -> Tensor | None:
        """Which scores (n,) of a further block can be among the best; None: all of them."""
        # Of equal scores those of earlier blocks stay; NaN never enters.
        return None if self._bound is None else scores > self._bound

    def _cut(self, k: int) -> None:
        """Leave only the best of what is kept, and ask for more from now on."""
        units, scores = _joined(self._units), _joined(self._scores)
        kept = select_top(scores, None, k)
        units = units[kept]
        scores = scores[kept]
        self._units, self._scores = [units], [scores]
        self._bound = without_nan(scores).amin() if k else None

    def _cut_groups(self, k: Tensor) -> None:
        """Leave only the best of each group."""
        units, scores, groups = map(_joined, (self._units, self._scores, self._groups))
        there = torch.bincount(groups, minlength=k.numel())
        kept = select_top(scores, groups, torch.minimum(k, there))
        self._units, self._scores, self._groups = [units[kept]], [scores[kept]], [groups[kept]]

    def units(self) -> Tensor:
        """The best, ascending.

        Raises:
            SparsityError: Fewer were offered than were asked for.
        """
        if not self._units:
            return torch.empty(0, dtype=torch.int64, device=self._device)
        units, scores = torch.cat(self._units), torch.cat(self._scores)
        groups = torch.cat(self._groups) if self._groups else None
        # Too few in all, or in a group: the selection says which.
        return units[select_top(scores, groups, self._k)]


def _joined(parts: list[Tensor]) -> Tensor:
    """All of them as one, and no longer kept one by one."""
    joined = torch.cat(parts)
    parts.clear()
    return joined
