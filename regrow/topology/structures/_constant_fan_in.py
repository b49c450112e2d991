"""The same number of connections into every output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from regrow.topology._structure import Structure
from regrow.topology.structures._matrix import as_matrix
from regrow.typing import Shape


@final
@dataclass(frozen=True)
class ConstantFanIn(Structure):
    """Unit: one element. Group: all weights into one output; every group holds as many.

    SRigL (Lasby et al. 2023, section 3) trains with it; a condensed matrix stores it. Outputs with
    no connection at all may exist beside it (ablated neurons).

    Example:
        >>> ConstantFanIn().n_groups((16, 3, 3, 3))
        16
    """

    @property
    def even_groups(self) -> bool:
        """True: that is what constant fan-in means."""
        return True

    def check(self, shape: Shape) -> None:
        """Any weight with outputs and inputs will do.

        Raises:
            SparsityError: Fewer than two dimensions, or no elements.
        """
        as_matrix(shape, self)

    def n_units(self, shape: Shape) -> int:
        """Number of elements."""
        return math.prod(shape)

    def n_groups(self, shape: Shape) -> int:
        """Number of outputs."""
        return as_matrix(shape, self).n_out

    def unit_of(self, flat: Tensor, shape: Shape) -> Tensor:
        """The element itself."""
        del shape
        return flat

    def group_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """The output that the element leads to."""
        return unit // as_matrix(shape, self).fan_in

    def elements_of(self, unit: Tensor, shape: Shape) -> Tensor:
        """The unit itself, as a column (n, 1)."""
        del shape
        return unit.unsqueeze(1)
