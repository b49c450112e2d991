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
ProductAndOrder = Callable[[Tensor, Tensor, Tensor | None, Pattern], tuple[Tensor, Tensor]]
Gradients = Callable[[Tensor, Tensor, Tensor, Pattern, bool], tuple[Tensor, Tensor]]


@final
@dataclass(frozen=True)
class Backend:
    """One way to run the operations. Inputs are checked and of one dtype and device.

    Args:
        name: What ``backend=`` and ``use_backend`` call it.
        product: (values, x_BI, bias or None, pattern) -> y_BO, feature-major in memory.
        transposed_product: (values, dy_BO, pattern) -> dx_BI, feature-major in memory.
        sampled_product: (dy_BO, x_BI, pattern) -> (nnz,).
        unsupported: (device, dtype) -> reasons why it cannot run, none if it can.
        tolerances: dtype -> (relative, absolute) error against float64, for entries about 1 and
            sums of at most a few thousand terms.
        deterministic: Whether equal inputs give equal bits, whatever the number of threads.
        both_gradients: (values, dy_BO, x_BI, pattern, batch_first) -> those of values and of x,
            the second one contiguous where ``batch_first``, or else feature-major; None where
            nothing is gained by computing them together.
        product_and_order: (values, x_BI, bias or None, pattern) -> y_BO as ``product`` has it, and
            x_BI in the memory order that was made for it, for its gradients, or x_BI itself; None
            where there is no such order.
    """

    name: str
    product: Product
    transposed_product: TransposedProduct
    sampled_product: SampledProduct
    unsupported: Callable[[torch.device, torch.dtype], list[str]]
    tolerances: Mapping[torch.dtype, tuple[float, float]]
    deterministic: bool
    both_gradients: Gradients | None = None
    product_and_order: ProductAndOrder | None = None

    def gradients(
        self,
        values: Tensor,
        dy_BO: Tensor,
        x_BI: Tensor,
        pattern: Pattern,
        wanted: tuple[bool, bool],
        *,
        batch_first: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of a product: of values, and of x in the order asked for; or None."""
        for_values, for_x = wanted
        if for_values and for_x and self.both_gradients is not None:
            return self.both_gradients(values, dy_BO, x_BI, pattern, batch_first)
        dx = self.transposed_product(values, dy_BO, pattern) if for_x else None
        if dx is not None and batch_first:
            dx = dx.contiguous()
        return self.sampled_product(dy_BO, x_BI, pattern) if for_values else None, dx


def is_feature_major(x_BI: Tensor) -> bool:
    """Whether the features of a (B, I) tensor follow one another in memory, sample by sample."""
    n_batch, n_in = x_BI.shape
    by_sample, by_feature = x_BI.stride()
    return (by_sample == 1 or n_batch <= 1) and (by_feature == n_batch or n_in <= 1)


def as_result(view: Tensor) -> Tensor:
    """The same memory as a tensor of its own: what comes behind may write to it in place.

    torch refuses that for results of an operation that are views of something.
    """
    return view if view._base is None else view.new_empty(0).set_(view)  # type: ignore[call-overload]
