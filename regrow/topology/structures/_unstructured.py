"""Single elements."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from regrow.errors import SparsityError
from regrow.topology._structure import Structure
from regrow.typing import Shape


@final
@dataclass(frozen=True)
class Unstructured(Structure):
    """Unit: one element. Group: the whole weight.

    Example:
        >>> Unstructured().n_units((3, 4))
        12
    """

    def check(self, shape: Shape) -> None:
        """Any weight with at least one element will do.

        Raises:
            SparsityError: The weight is empty.
        """
        if math.prod(shape) == 0:
            raise SparsityError(f"a weight of shape {tuple(shape)} has no elements to choose from")

    def n_units(self, shape: Shape) -> int:
        """Number of elements."""
        return math.prod(shape)

    def n_groups(self, shape: Shape) -> int:
        """One."""
        del shape
        return 1

    def unit_of(self, flat: Tensor, shape: Shape) -> Tensor:
        """The element itself."""
        del shape
        return flat

    def group_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """Group 0 for every unit."""
        del shape
        return torch.zeros_like(unit)

    def elements_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """The unit itself, as a column (n, 1)."""
        del shape
        return unit.unsqueeze(1)
