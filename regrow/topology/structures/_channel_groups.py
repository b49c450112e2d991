"""Runs of output channels, each with its own count."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from regrow._checks import check_count
from regrow.errors import SparsityError
from regrow.topology._structure import Structure
from regrow.topology.structures._matrix import as_matrix
from regrow.typing import Shape


@final
@dataclass(frozen=True)
class ChannelGroups(Structure):
    """Unit: one element. Group: one of ``n`` runs of output channels, each with its own count.

    DSN splits the outputs of a convolution into three runs, each with its own region of the kernel
    (Xiao et al. 2022); runs are as ``torch.chunk`` makes them: all of ``ceil(n_out / n)`` outputs,
    save the last.

    Args:
        n: Number of runs, at least 1.

    Example:
        >>> import torch
        >>> ChannelGroups(3).group_of(torch.arange(12), (6, 2)).tolist()
        [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    """

    n: int

    def __post_init__(self) -> None:
        check_count(self.n, "n")

    def check(self, shape: Shape) -> None:
        """The outputs must fill all runs.

        Raises:
            SparsityError: They do not, or the weight has fewer than two dimensions.
        """
        n_out = as_matrix(shape, self).n_out
        if -(-n_out // self._run(shape)) != self.n:
            raise SparsityError(
                f"{self} cannot split {n_out} outputs of a weight of shape {tuple(shape)} into "
                f"{self.n} runs of {self._run(shape)}: choose an n that divides {n_out}"
            )

    def n_units(self, shape: Shape) -> int:
        """Number of elements."""
        return math.prod(shape)

    def n_groups(self, shape: Shape) -> int:
        """Number of runs."""
        del shape
        return self.n

    def unit_of(self, flat: Tensor, shape: Shape) -> Tensor:
        """The element itself."""
        del shape
        return flat

    def group_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """The run that the element's output is in."""
        return unit // (as_matrix(shape, self).fan_in * self._run(shape))

    def elements_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """The unit itself, as a column (n, 1)."""
        del shape
        return unit.unsqueeze(1)

    def _run(self, shape: Shape) -> int:
        return -(-shape[0] // self.n)
