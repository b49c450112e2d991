"""The best units of several blocks of candidates."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from regrow.topology._select import select_top


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
        self._units = torch.empty(0, dtype=torch.int64, device=device)
        self._scores: Tensor | None = None
        self._groups: Tensor | None = None

    def offer(self, units: Tensor, scores: Tensor, groups: Tensor | None) -> None:
        """Consider a block.

        Args:
            units: (n,) int64, ascending and above those of earlier blocks.
            scores: (n,).
            groups: (n,) int64; None where ``k`` is one number.
        """
        if self._scores is not None:
            units = torch.cat((self._units, units))
            scores = torch.cat((self._scores, scores))
            groups = None if self._groups is None else torch.cat((self._groups, groups))  # type: ignore[arg-type]
        if isinstance(self._k, Tensor):
            there = torch.bincount(groups, minlength=self._k.numel())  # type: ignore[arg-type]
            kept = select_top(scores, groups, torch.minimum(self._k, there))
            self._groups = groups[kept]  # type: ignore[index]
        else:
            kept = select_top(scores, None, min(self._k, scores.numel()))
        self._units, self._scores = units[kept], scores[kept]

    def units(self) -> Tensor:
        """The best, ascending.

        Raises:
            SparsityError: Fewer were offered than were asked for.
        """
        if self._scores is None:
            return self._units
        # Too few in all, or in a group: the selection says which.
        kept = select_top(self._scores, self._groups, self._k)
        return self._units[kept]
