"""The structure of a transposed convolution."""

from __future__ import annotations

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
class Transposed(Structure):
    """Another structure, on a weight whose inputs come first.

    The weight of a transposed convolution is (in, out / groups, kernel). Its elements are counted
    as if it were (out, in / groups, kernel), so that an output is an output whatever the layer.
    Methods wrap the structure by themselves where the module is transposed.

    Args:
        structure: The structure as on a convolution.
        groups: Groups of the convolution, at least 1.

    Example:
        >>> import torch
        >>> from regrow.topology import OutChannel
        >>> Transposed(OutChannel()).elements_of(torch.tensor([1]), (3, 4)).tolist()
        [[1, 5, 9]]
    """

    structure: Structure
    groups: int = 1

    def __post_init__(self) -> None:
        check_count(self.groups, "groups")

    @property
    def even_groups(self) -> bool:
        """As the other structure's."""
        return self.structure.even_groups

    @property
    def fixed_sparsity(self) -> float | None:
        """As the other structure's."""
        return self.structure.fixed_sparsity

    def check(self, shape: Shape) -> None:
        """The other structure decides.

        Raises:
            SparsityError: It refuses, or ``groups`` does not divide the inputs.
        """
        n_in = as_matrix(shape, self).n_out
        if n_in % self.groups:
            raise SparsityError(
                f"groups={self.groups} does not divide the {n_in} inputs of a transposed "
                f"convolution of shape {tuple(shape)}"
            )
        self.structure.check(self._usual(shape))

    def n_units(self, shape: Shape) -> int:
        """As the other structure's."""
        return self.structure.n_units(self._usual(shape))

    def n_groups(self, shape: Shape) -> int:
        """As the other structure's."""
        return self.structure.n_groups(self._usual(shape))

    def unit_of(self, flat: Tensor, shape: Shape) -> Tensor:
        """As the other structure's, of the element's place in the usual order."""
        n_in, n_out, n_kernel = as_matrix(shape, self)
        per_group = n_in // self.groups
        pair, k = flat // n_kernel, flat % n_kernel
        i, o = pair // n_out, pair % n_out
        out = i // per_group * n_out + o
        usual = (out * per_group + i % per_group) * n_kernel + k
        return self.structure.unit_of(usual, self._usual(shape))

    def group_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """As the other structure's."""
        return self.structure.group_of(unit, self._usual(shape))

    def elements_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """As the other structure's, taken back to the weight's own order, ascending."""
        n_in, n_out, n_kernel = as_matrix(shape, self)
        per_group = n_in // self.groups
        usual = self.structure.elements_of(unit, self._usual(shape))
        pair, k = usual // n_kernel, usual % n_kernel
        out, within = pair // per_group, pair % per_group
        i = out // n_out * per_group + within
        return ((i * n_out + out % n_out) * n_kernel + k).sort(dim=1).values

    def _usual(self, shape: Shape) -> Shape:
        return (shape[1] * self.groups, shape[0] // self.groups, *shape[2:])

    def __str__(self) -> str:
        return f"{self.structure} of a transposed convolution"
