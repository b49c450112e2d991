"""Whole kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from regrow.topology._structure import Structure
from regrow.topology.structures._matrix import as_matrix
from regrow.typing import Shape


@final
@dataclass(frozen=True)
class Kernel(Structure):
    """Unit: one kernel, all positions between an output and an input channel.

    E2ENet drops and grows such feature connections (Wu et al. 2024, its dynamic sparse feature
    fusion). Of a matrix a kernel is one element.

    Args:
        per_output: Group: False: the whole weight (E2ENet); True: one output channel, each with
            as many kernels as any other.

    Example:
        >>> Kernel().n_units((8, 4, 3, 3))
        32
    """

    per_output: bool = False

    @property
    def even_groups(self) -> bool:
        """Whether groups are output channels."""
        return self.per_output

    def check(self, shape: Shape) -> None:
        """Any weight with outputs and inputs will do.

        Raises:
            SparsityError: Fewer than two dimensions, or no elements.
        """
        as_matrix(shape, self)

    def n_units(self, shape: Shape) -> int:
        """Number of pairs of an output and an input."""
        return shape[0] * shape[1]

    def n_groups(self, shape: Shape) -> int:
        """One, or the number of outputs."""
        return shape[0] if self.per_output else 1

    def unit_of(self, flat: Tensor, shape: Shape) -> Tensor:
        """The pair of the element's output and input."""
        return flat // as_matrix(shape, self).n_kernel

    def group_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """Group 0, or the output."""
        return unit // shape[1] if self.per_output else torch.zeros_like(unit)

    def elements_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """The kernel's positions (n, kernel positions)."""
        n_kernel = as_matrix(shape, self).n_kernel
        return unit.unsqueeze(1) * n_kernel + torch.arange(n_kernel, device=unit.device)
