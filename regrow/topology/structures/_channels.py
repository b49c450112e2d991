"""Whole channels: all weights of an output, or from an input."""

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
class OutChannel(Structure):
    """Unit: all weights of one output (a channel, a neuron). Group: the whole weight.

    Example:
        >>> OutChannel().elements_of(torch.tensor([1]), (3, 4)).tolist()
        [[4, 5, 6, 7]]
    """

    def check(self, shape: Shape) -> None:
        """Any weight with outputs and inputs will do.

        Raises:
            SparsityError: Fewer than two dimensions, or no elements.
        """
        as_matrix(shape, self)

    def n_units(self, shape: Shape) -> int:
        """Number of outputs."""
        return shape[0]

    def n_groups(self, shape: Shape) -> int:
        """One."""
        del shape
        return 1

    def unit_of(self, flat: Tensor, shape: Shape) -> Tensor:
        """The element's output."""
        return flat // as_matrix(shape, self).fan_in

    def group_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """Group 0 for every unit."""
        del shape
        return torch.zeros_like(unit)

    def elements_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """The output's weights (n, fan-in)."""
        fan_in = as_matrix(shape, self).fan_in
        return unit.unsqueeze(1) * fan_in + torch.arange(fan_in, device=unit.device)


@final
@dataclass(frozen=True)
class InChannel(Structure):
    """Unit: all weights from one input (a channel, a feature). Group: the whole weight.

    Feature selection and ANF's input layer (Grooten et al. 2023) drop and grow such units. Of a
    grouped convolution, input ``i`` of every group is one unit: the shape does not tell groups.

    Example:
        >>> InChannel().elements_of(torch.tensor([1]), (3, 4)).tolist()
        [[1, 5, 9]]
    """

    def check(self, shape: Shape) -> None:
        """Any weight with outputs and inputs will do.

        Raises:
            SparsityError: Fewer than two dimensions, or no elements.
        """
        as_matrix(shape, self)

    def n_units(self, shape: Shape) -> int:
        """Number of inputs."""
        return shape[1]

    def n_groups(self, shape: Shape) -> int:
        """One."""
        del shape
        return 1

    def unit_of(self, flat: Tensor, shape: Shape) -> Tensor:
        """The element's input."""
        matrix = as_matrix(shape, self)
        return flat // matrix.n_kernel % matrix.n_in

    def group_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """Group 0 for every unit."""
        del shape
        return torch.zeros_like(unit)

    def elements_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """The input's weights (n, outputs * kernel positions), ascending."""
        matrix, device = as_matrix(shape, self), unit.device
        row = torch.arange(matrix.n_out, device=device).unsqueeze(1) * matrix.fan_in
        within = row + torch.arange(matrix.n_kernel, device=device)
        return (unit * matrix.n_kernel).unsqueeze(1) + within.reshape(1, -1)
