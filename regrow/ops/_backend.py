"""What a back end is: a record of functions, and the reasons why they cannot run."""

# ruff: noqa: N803 (shape letters)

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor


class Pattern(NamedTuple):
    """The tensors of a layout, as the operations take them; see :class:`CSR`."""

    row_ptr: Tensor
    columns: Tensor
    col_ptr: Tensor | None
    rows: Tensor | None
    order: Tensor | None
    n_in: int

    @property
    def n_out(self) -> int:
        """Number of rows."""
        return self.row_ptr.shape[0] - 1


Product = Callable[[Tensor, Tensor, Tensor | None, Pattern], Tensor]
TransposedProduct = Callable[[Tensor, Tensor, Pattern], Tensor]
SampledProduct = Callable[[Tensor, Tensor, Pattern], Tensor]


@final
@dataclass(frozen=True)
class Backend:
    """One way to run the operations. Inputs are checked and of one dtype and device.

    Args:
        name: What ``backend=`` and ``use_backend`` call it.
        product: (values, x_BI, bias or None, pattern) -> y_BO, feature-major in memory.
        transposed_product: (values, dy_BO, pattern) -> dx_BI, feature-major in memory.
        sampled_product: (dy_BO, x_BI, pattern) -> (nnz,).
        feature_major: (B, I) -> the same numbers in new memory with strides (1, B).
        wants_feature_major: (batch size, dtype) -> whether a copy in that order, made once and used
            by several operations, saves more than it costs.
        unsupported: (device, dtype) -> reasons why it cannot run, none if it can.
        tolerances: dtype -> (relative, absolute) error against float64, for entries about 1 and
            sums of at most a few thousand terms.
        deterministic: Whether equal inputs give equal bits, whatever the number of threads.
    """

    name: str
    product: Product
    transposed_product: TransposedProduct
    sampled_product: SampledProduct
    feature_major: Callable[[Tensor], Tensor]
    wants_feature_major: Callable[[int, torch.dtype], bool]
    unsupported: Callable[[torch.device, torch.dtype], list[str]]
    tolerances: Mapping[torch.dtype, tuple[float, float]]
    deterministic: bool


def is_feature_major(x_BI: Tensor) -> bool:
    """Whether the features of a (B, I) tensor follow one another in memory, sample by sample."""
    return x_BI.t().is_contiguous()
