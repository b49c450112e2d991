"""SparseConv1d, 2d and 3d: torch's convolutions of values and indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.nn import functional

from regrow._checks import check_choice, check_count
from regrow.errors import SparsityError
from regrow.nn._sparse_module import SparseModule
from regrow.ops import sparse_conv
from regrow.topology import Structure, Topology

Size = int | Sequence[int]
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _SparseConv(SparseModule):
    """A convolution that holds its connections only; arguments as torch's layer, then ours.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Of each spatial dimension, or one for all.
        stride: Likewise.
        padding: Likewise, on both sides; or "same" or "valid".
        dilation: Likewise.
        groups: Into which channels are split.
        bias: Whether there is one.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        sparsity: Fraction in [0, 1) of zeros; None where the structure fixes it.
        structure: What a unit is; by default a single element.
        seed: Of topology, values and bias. Layers of one shape and one seed begin alike: give each
            its own.
        backend: "auto", "numba", "torch" or "reference".
        device: Of parameters and topology.
        dtype: Of parameters.
        topology: In place of a drawn one; ``sparsity`` is then None and ``structure`` left out.

    Raises:
        TypeError: An argument is of another type.
        ValueError: An argument is out of range, or the structure does not fit the shape.
    """

    n_dims: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | Literal["same", "valid"] = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,  # noqa: FBT001, FBT002 - torch's signature
        padding_mode: str = "zeros",
        *,
        sparsity: float | None,
        structure: Structure | None = None,
        seed: int = 0,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        topology: Topology | None = None,
    ) -> None:
        self.in_channels = check_count(in_channels, "in_channels")
        self.out_channels = check_count(out_channels, "out_channels")
        self.groups = check_count(groups, "groups")
        for name, n in (("in_channels", in_channels), ("out_channels", out_channels)):
            if n % groups:
                raise SparsityError(f"{name}={n} must be divisible by groups={groups}")
        self.padding_mode = check_choice(padding_mode, "padding_mode", PADDING_MODES)
        self.kernel_size = self._sizes(kernel_size, "kernel_size", least=1)
        self.stride = self._sizes(stride, "stride", least=1)
        self.dilation = self._sizes(dilation, "dilation", least=1)
        self.padding = padding if isinstance(padding, str) else self._sizes(padding, "padding")
        self._sides = self._sides_of(padding)
        super().__init__(
            (self.out_channels, self.in_channels // self.groups, *self.kernel_size),
            n_out=self.out_channels,
            bias=bias,
            sparsity=sparsity,
            structure=structure,
            seed=seed,
            backend=backend,
            device=device,
            dtype=dtype,
            topology=topology,
        )

    @classmethod
    def _sizes(cls, value: Any, argument: str, *, least: int = 0) -> tuple[int, ...]:  # noqa: ANN401
        several = isinstance(value, Sequence) and not isinstance(value, str)
        sizes = tuple(value) if several else (value,) * cls.n_dims
        if len(sizes) != cls.n_dims:
            raise SparsityError(
                f"{argument} must be an integer or {cls.n_dims} of them, got {value!r}"
            )
        return tuple(check_count(size, argument, least=least) for size in sizes)

    def _sides_of(self, padding: Any) -> tuple[tuple[int, int], ...]:  # noqa: ANN401
        """Padding (before, after) of each spatial dimension."""
        if not isinstance(padding, str):
            return tuple((one, one) for one in self._sizes(padding, "padding"))
        check_choice(padding, "padding", ("same", "valid"))
        if padding == "valid":
            return ((0, 0),) * self.n_dims
        if any(stride != 1 for stride in self.stride):
            raise SparsityError(f"padding='same' needs stride 1, got stride={self.stride}")
        totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of ``x`` (N, in_channels, spatial...) or (in_channels, spatial...)."""
        x, values, bias = self._cast(x)
        x, padding = self._padded(x)

        def compute(values: Tensor) -> Tensor:
            return sparse_conv(
                values,
                self.layout,
                x,
                kernel_size=self.kernel_size,
                bias=bias,
                stride=self.stride,
                padding=padding,
                dilation=self.dilation,
                groups=self.groups,
                backend=self.backend,
            )

        return self._observed(x, values, compute)

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """The input with what padding the operation cannot do itself, and what it can."""
        if self.padding_mode == "zeros" and all(a == b for a, b in self._sides):
            return x, tuple(a for a, _ in self._sides)
        sides = [side for pair in reversed(self._sides) for side in pair]
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return functional.pad(x, sides, mode=mode), (0,) * self.n_dims

    def grad_rows(self, x: Tensor, dy: Tensor, first: int, last: int) -> Tensor:
        """See ``SparseModule.grad_rows``."""
        wide = torch.promote_types(dy.dtype, torch.float32)
        x, dy = (t.unsqueeze(0) if t.dim() == self.n_dims + 1 else t for t in (x, dy))
        exact = self.padding_mode == "zeros" and all(a == b for a, b in self._sides)
        padding = [a for a, _ in self._sides] if exact else [0] * self.n_dims
        n_in, n_out = self.in_channels // self.groups, self.out_channels // self.groups
        found, x = [], x.to(wide)
        while first < last:
            group = first // n_out
            end = min(last, (group + 1) * n_out)
            like = x.new_empty(1).expand(end - first, n_in, *self.kernel_size)
            rows = torch.ops.aten.convolution_backward(
                dy[:, first:end].to(wide),
                x[:, group * n_in : (group + 1) * n_in],
                like,
                None,
                list(self.stride),
                padding,
                list(self.dilation),
                False,  # noqa: FBT003 - not transposed
                [0] * self.n_dims,
                1,
                [False, True, False],
            )[1]
            found.append(rows.reshape(end - first, -1))
            first = end
        return torch.cat(found)

    def extra_repr(self) -> str:
        """As torch's layer, with what is sparse."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        parts.append(f"stride={self.stride}, padding={self.padding!r}")
        if any(one != 1 for one in self.dilation):
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join([*parts, self._describe()])


@final
class SparseConv1d(_SparseConv):
    __doc__ = (_SparseConv.__doc__ or "").replace("A convolution", "A 1-d convolution", 1)
    n_dims = 1


@final
class SparseConv2d(_SparseConv):
    __doc__ = (_SparseConv.__doc__ or "").replace("A convolution", "A 2-d convolution", 1)
    n_dims = 2


@final
class SparseConv3d(_SparseConv):
    __doc__ = (_SparseConv.__doc__ or "").replace("A convolution", "A 3-d convolution", 1)
    n_dims = 3
