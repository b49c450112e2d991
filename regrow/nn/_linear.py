"""SparseLinear: ``torch.nn.Linear`` of values and indices."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from regrow._checks import check_count
from regrow.nn._sparse_module import SparseModule
from regrow.ops import sparse_linear
from regrow.topology import Structure, Topology


@final
class SparseLinear(SparseModule):
    """A linear layer that holds its connections only; drop-in for ``torch.nn.Linear``.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        bias: Whether there is one.
        sparsity: Fraction in [0, 1) of zeros; None where the structure fixes it.
        structure: What a unit is; by default a single element.
        seed: Of topology, values and bias. Layers of one shape and one seed begin alike: give each
            its own.
        backend: "auto" (measured once for each shape, batch and sparsity), "numba", "torch" or
            "reference".
        device: Of parameters and topology.
        dtype: Of parameters.
        topology: In place of a drawn one; ``sparsity`` is then None and ``structure`` left out.

    Raises:
        TypeError: An argument is of another type.
        ValueError: An argument is out of range, or the structure does not fit the shape.

    Shape:
        Input (..., in_features), output (..., out_features), which is feature-major in memory. Also
        a ``scipy.sparse`` matrix of shape (B, in_features), which gets no gradient.

    Example:
        >>> layer = SparseLinear(64, 32, sparsity=0.9, seed=1)
        >>> layer.values.shape, layer(torch.ones(8, 64)).shape
        (torch.Size([205]), torch.Size([8, 32]))
    """

    takes_compressed_rows = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,  # noqa: FBT001, FBT002 - torch's signature
        *,
        sparsity: float | None,
        structure: Structure | None = None,
        seed: int = 0,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        topology: Topology | None = None,
    ) -> None:
        self.in_features = check_count(in_features, "in_features")
        self.out_features = check_count(out_features, "out_features")
        super().__init__(
            (self.out_features, self.in_features),
            n_out=self.out_features,
            bias=bias,
            sparsity=sparsity,
            structure=structure,
            seed=seed,
            backend=backend,
            device=device,
            dtype=dtype,
            topology=topology,
        )

    def forward(self, x: Any) -> Tensor:  # noqa: ANN401
        """``x @ W.T + bias``."""
        x, values, bias = self._cast(x)
        layout, backend = self._layout or self.layout, self.backend
        if not self._recorder.is_on:
            return sparse_linear(values, layout, x, bias=bias, backend=backend)

        def compute(values: Tensor) -> Tensor:
            return sparse_linear(values, layout, x, bias=bias, backend=backend)

        return self._recorder.observed(x, values, compute)

    def grad_rows(self, x: Any, dy: Tensor, first: int, last: int) -> Tensor:  # noqa: ANN401
        """See ``SparseModule.grad_rows``."""
        wide = torch.promote_types(dy.dtype, torch.float32)
        part = dy[..., first:last].reshape(-1, last - first).to(wide)
        if not isinstance(x, Tensor):
            return torch.from_numpy(x.T @ part.numpy()).t()
        return part.t() @ x.reshape(-1, x.shape[-1]).to(wide)

    def extra_repr(self) -> str:
        """As torch's layer, with what is sparse."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, {self._describe()}"
        )
