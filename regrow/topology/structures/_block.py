"""Tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from regrow._checks import check_count
from regrow.errors import SparsityError
from regrow.topology._structure import Structure
from regrow.topology.structures._matrix import as_matrix
from regrow.typing import Shape


@final
@dataclass(frozen=True)
class Block(Structure):
    """Unit: a tile of ``r`` outputs by ``c`` inputs. Group: the whole weight.

    Of a convolution a tile holds whole kernels, so that ``Block(1, 1)`` is ``Kernel()``.

    Args:
        r: Outputs of a tile, at least 1.
        c: Inputs of a tile, at least 1.

    Example:
        >>> Block(2, 2).elements_of(torch.tensor([1]), (4, 4)).tolist()
        [[2, 3, 6, 7]]
    """

    r: int
    c: int

    def __post_init__(self) -> None:
        check_count(self.r, "r")
        check_count(self.c, "c")

    def check(self, shape: Shape) -> None:
        """Tiles must fill the weight.

        Raises:
            SparsityError: They do not, or the weight has fewer than two dimensions.
        """
        n_out, n_in, _ = as_matrix(shape, self)
        if n_out % self.r or n_in % self.c:
            raise SparsityError(
                f"{self} does not tile {n_out} outputs by {n_in} inputs, of a weight of shape "
                f"{tuple(shape)}: leave it out with select=, such as "
                f"select=regrow.fitting({self})"
            )

    def n_units(self, shape: Shape) -> int:
        """Number of tiles."""
        return (shape[0] // self.r) * (shape[1] // self.c)

    def n_groups(self, shape: Shape) -> int:
        """One."""
        del shape
        return 1

    def unit_of(self, flat: Tensor, shape: Shape) -> Tensor:
        """The tile, counted along rows of tiles."""
        _, n_in, n_kernel = as_matrix(shape, self)
        pair = flat // n_kernel
        return pair // n_in // self.r * (n_in // self.c) + pair % n_in // self.c

    def group_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """Group 0 for every unit."""
        del shape
        return torch.zeros_like(unit)

    def elements_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """The tile's elements (n, r * c * kernel positions), ascending."""
        _, n_in, n_kernel = as_matrix(shape, self)
        across, device = n_in // self.c, unit.device
        row = (unit // across * self.r).unsqueeze(1) + torch.arange(self.r, device=device)
        column = (unit % across * self.c).unsqueeze(1) + torch.arange(self.c, device=device)
        pair = row.unsqueeze(2) * n_in + column.unsqueeze(1)
        elements = pair.unsqueeze(3) * n_kernel + torch.arange(n_kernel, device=device)
        # Not -1: of no units torch cannot tell how many elements each has.
        return elements.reshape(unit.numel(), self.r * self.c * n_kernel)
