"""N of every M inputs."""

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
class NM(Structure):
    """Unit: one element. Group: a run of ``m`` inputs of one output; each holds ``n`` of them.

    2:4 is what sparse tensor cores multiply. Of a convolution a run is ``m`` input channels at one
    kernel position, as SR-STE takes it (Zhou et al. 2021), so that the channels-last matrix is
    N:M. The structure fixes the sparsity: 1 - n/m in every layer.

    Args:
        n: Connections of a run, 1 <= n <= m.
        m: Inputs of a run.

    Raises:
        ValueError: ``n`` exceeds ``m``, or one is below 1.

    Example:
        >>> NM(2, 4).fixed_sparsity
        0.5
        >>> NM(2, 4).n_groups((8, 16))
        32
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        check_count(self.n, "n")
        check_count(self.m, "m")
        if self.n > self.m:
            raise ValueError(f"n must be at most m={self.m}, got {self.n}: n of every m exist")

    @property
    def even_groups(self) -> bool:
        """True: ``n`` in every run."""
        return True

    @property
    def fixed_sparsity(self) -> float:
        """1 - n/m."""
        return 1 - self.n / self.m

    def check(self, shape: Shape) -> None:
        """The inputs must be a multiple of ``m``.

        Raises:
            SparsityError: They are not, or the weight has fewer than two dimensions.
        """
        n_in = as_matrix(shape, self).n_in
        if n_in % self.m:
            raise SparsityError(
                f"{self} needs a number of inputs that {self.m} divides, got {n_in} in a weight of "
                f"shape {tuple(shape)}: leave it out with select=, such as "
                f"select=regrow.fitting({self})"
            )

    def n_units(self, shape: Shape) -> int:
        """Number of elements."""
        return math.prod(shape)

    def n_groups(self, shape: Shape) -> int:
        """Number of runs."""
        return math.prod(shape) // self.m

    def unit_of(self, flat: Tensor, shape: Shape) -> Tensor:
        """The element itself."""
        del shape
        return flat

    def group_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """The run, counted by output, then run, then kernel position."""
        n_kernel = as_matrix(shape, self).n_kernel
        # Inputs of all outputs lie one behind the other, and m divides their number.
        run = unit // n_kernel // self.m
        return run * n_kernel + unit % n_kernel

    def elements_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """The unit itself, as a column (n, 1)."""
        del shape
        return unit.unsqueeze(1)
