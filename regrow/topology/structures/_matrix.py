"""A weight as (outputs, inputs, kernel positions), which all structures but one read it as."""

from __future__ import annotations

import math
from typing import NamedTuple

from regrow.errors import SparsityError
from regrow.typing import Shape


class Matrix(NamedTuple):
    """Sizes of a weight: outputs, inputs, and positions of the kernel (1 for a matrix).

    Linear: (out, in). Convolution: (out, in / groups, kernel). Bilinear: (out, first input), its
    second input as the kernel.
    """

    n_out: int
    n_in: int
    n_kernel: int

    @property
    def fan_in(self) -> int:
        """Elements of one output."""
        return self.n_in * self.n_kernel


def as_matrix(shape: Shape, structure: object) -> Matrix:
    """The sizes of a weight.

    Raises:
        SparsityError: It has fewer than two dimensions, or no elements.
    """
    if len(shape) < 2 or math.prod(shape) == 0:
        raise SparsityError(
            f"{structure} needs a weight of at least two dimensions, outputs and inputs, none of "
            f"them empty; got shape {tuple(shape)}"
        )
    return Matrix(shape[0], shape[1], math.prod(shape[2:]))
