"""The dense gradient of a truly sparse weight, at any position, from what a step kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor

from regrow.topology import Topology, positions_at

_log = logging.getLogger(__name__)

N_MEASURED = 16
BLOCK = 2**20
"""Elements of the dense gradient that are computed together: four or eight megabytes."""
SHARE = 4
"""Or fewer: one to so many connections."""
SMALLEST = 2**12
"""But so many at least."""

Rows = Callable[[Any, Tensor, int, int], Tensor]
"""(input, output gradient, first row, row behind the last) -> rows of the dense gradient."""


@final
class RecordedGradient:
    """Inputs and output gradients of a step's backward passes: the weight gradient on demand.

    Entries are computed in blocks of whole rows by dense products, at most ``BLOCK`` elements and a
    share of the connections (or one row) at a time: nothing of the dense size is allocated. Asking
    for all of them costs what a dense weight gradient costs.

    What the loop did to ``.grad`` since, such as clipping by norm, unscaling or averaging over
    ranks, is taken over as one factor, the median over ``N_MEASURED`` connections; a warning is
    logged where it is none.

    Args:
        name: Of the layer.
        passes: (rows function, input, output gradient) of each pass.
        topology: Of the weight.
        grad: The gradient of the values (nnz,), as the optimizer gets it.
        scale: What a loss scaler leaves to the optimizer to divide ``grad`` by.
        group: Whose ranks' gradients are averaged, or None.
    """

    def __init__(
        self,
        name: str,
        passes: Sequence[tuple[Rows, Any, Tensor]],
        topology: Topology,
        grad: Tensor,
        *,
        scale: Tensor | float = 1.0,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._name = name
        self._passes = passes
        self._topology = topology
        self._group = group
        self._dtype = grad.dtype
        self._factor = 1.0
        if topology.nnz:
            self._factor = self._measured(grad) / float(scale)

    def _measured(self, grad: Tensor) -> float:
        """By what the loop has multiplied the gradient since it was recorded."""
        n = grad.numel()
        spread = torch.linspace(0, n - 1, min(n, N_MEASURED), dtype=torch.float64).to(torch.int64)
        places = torch.cat((spread.to(grad.device), grad.abs().argmax().unsqueeze(0)))
        recorded = self.at(positions_at(self._topology, places)).double()
        told = recorded != 0
        if not bool(told.any()):
            return 1.0
        factors = (grad[places].double() / recorded)[told]
        factor = float(factors.median())
        # Rounding is no factor, and of small entries it says little.
        near = torch.finfo(self._dtype).eps ** 0.5
        off = (factors - factor).abs() * recorded[told].abs() > near * recorded.abs().max()
        if bool(off.any()):
            _log.warning(
                "%s: the gradient that the optimizer gets is not the one that growth ranks places "
                "by, times one factor (clipping by value? a gradient penalty?): at %d of %d "
                "connections looked at it differs; masked layers rank by .grad itself",
                self._name,
                int(off.count_nonzero()),
                off.numel(),
            )
        return 1.0 if abs(factor - 1.0) < near else factor

    def between(self, low: int, high: int) -> Tensor:
        """The gradient at flat positions ``low`` to ``high`` (high - low,)."""
        n_columns = self._topology.n_elements // self._topology.shape[0]
        first, last = low // n_columns, -(-high // n_columns)
        inside = slice(low - first * n_columns, high - first * n_columns)
        found: Tensor | None = None
        for rows, x, dy in self._passes:
            part = rows(x, dy, first, last).reshape(-1)[inside]
            found = part if found is None else found.add_(part)
        if found is None:
            wide = torch.promote_types(self._dtype, torch.float32)
            found = torch.zeros(high - low, dtype=wide, device=self._topology.device)
        return self._finished(found)

    def at(self, flat: Tensor) -> Tensor:
        """The gradient at flat positions (n,), in any order -> (n,)."""
        wide = torch.promote_types(self._dtype, torch.float32)
        n_columns = self._topology.n_elements // self._topology.shape[0]
        found = torch.zeros(flat.numel(), dtype=wide, device=flat.device)
        order = None
        if bool((flat[1:] < flat[:-1]).any()):
            flat, order = flat.sort()
        block = min(BLOCK, max(self._topology.nnz // SHARE, SMALLEST))
        for low, high, first, last in _blocks(flat, n_columns, block):
            inside = flat[low:high] - first * n_columns
            for rows, x, dy in self._passes:
                found[low:high] += rows(x, dy, first, last).reshape(-1)[inside]
        if order is not None:
            found = torch.empty_like(found).index_copy_(0, order, found)
        return self._finished(found)

    def _finished(self, found: Tensor) -> Tensor:
        """Averaged over ranks, and as the loop left it."""
        if self._group is not None:
            dist.all_reduce(found, group=self._group)
            found /= dist.get_world_size(self._group)
        return found.mul_(self._factor).to(self._dtype)


def _blocks(flat: Tensor, n_columns: int, block: int) -> Iterator[tuple[int, int, int, int]]:
    """(low, high, first, last): flat[low:high] lie in rows first to last; few rows at a time.

    Row by row where there are few positions: between them lie rows that nobody asked for.
    """
    step = 1 if flat.numel() <= 2 * N_MEASURED else max(1, block // n_columns)
    low = 0
    while low < flat.numel():
        first = int(flat[low]) // n_columns
        last = first + step
        high = int(torch.searchsorted(flat, last * n_columns))
        last = int(flat[high - 1]) // n_columns + 1
        yield low, high, first, last
        low = high
