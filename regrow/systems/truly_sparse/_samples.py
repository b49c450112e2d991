"""Samples and their targets, dense or as compressed rows, and the batches of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regrow._checks import described
from regrow.errors import SparsityError

if TYPE_CHECKING:
    import scipy.sparse as sp

    Inputs = Tensor | sp.csr_matrix | sp.csr_array
else:
    Inputs = Any


@final
class Samples:
    """Inputs and targets in memory.

    Args:
        x: (N, n_features) floating tensor, or a ``scipy.sparse`` matrix in CSR form.
        y: Targets (N, ...), in the form that the loss takes.

    Raises:
        TypeError: ``x`` is neither, or ``y`` no tensor.
        SparsityError: They differ in N, ``x`` is no matrix, or there is no sample.
    """

    def __init__(self, x: Inputs, y: Tensor) -> None:
        check_inputs(x)
        if not isinstance(y, Tensor):
            raise TypeError(f"y must be a tensor, got {described(y)}")
        if not len(y) == x.shape[0] > 0:
            raise SparsityError(
                f"x and y must hold equally many samples, one or more; got {x.shape[0]} and "
                f"{len(y)}"
            )
        self.x = x
        self.y = y

    def __len__(self) -> int:
        return len(self.y)

    @property
    def n_features(self) -> int:
        """Number of inputs."""
        return int(self.x.shape[1])

    def batch(self, indices: Tensor) -> tuple[Inputs, Tensor]:
        """The samples at ``indices`` (B,)."""
        return rows_of(self.x, indices), self.y[indices]

    def shard(self, index: int, n_shards: int) -> Samples:
        """Every ``n_shards``-th sample, from number ``index`` on: disjoint, and evenly large."""
        x = self.x[index::n_shards]
        return Samples(x, self.y[index::n_shards])


def check_inputs(x: object) -> None:
    """Raise unless ``x`` is a floating matrix, dense or of compressed rows.

    Raises:
        TypeError: Something else.
        SparsityError: Not two-dimensional.
    """
    if isinstance(x, Tensor):
        if not x.is_floating_point():
            raise TypeError(f"x must be floating, got {x.dtype}: divide images by 255")
    elif getattr(x, "format", None) != "csr":
        hint = "; x.tocsr() is one" if hasattr(x, "tocsr") else ""
        if type(x).__module__ == "numpy":
            hint = "; torch.from_numpy(x) is one"
        raise TypeError(
            f"x must be a tensor or a scipy.sparse matrix in CSR form, got {described(x)}{hint}"
        )
    if len(x.shape) != 2:  # type: ignore[attr-defined]
        raise SparsityError(f"x must be (N, n_features), got the shape {tuple(x.shape)}")  # type: ignore[attr-defined]


def check_outputs(model: nn.Module, samples: Samples, loss: object) -> None:
    """Raise where classes have no output, before anything is trained.

    Args:
        model: To be trained.
        samples: On these.
        loss: Only ``cross_entropy`` says what integer targets stand for.

    Raises:
        SparsityError: A label is no number of an output.
    """
    if loss is not F.cross_entropy or samples.y.is_floating_point() or samples.y.dim() != 1:
        return
    largest = int(samples.y.max())
    n_outputs = int(predict(model, samples.batch(torch.tensor([0]))[0]).shape[1])
    if largest >= n_outputs:
        raise SparsityError(
            f"the labels go up to {largest}, and the model has {n_outputs} outputs: it needs "
            f"{largest + 1}, one a class, as in sparse_mlp((..., {largest + 1}))"
        )


def rows_of(x: Inputs, indices: Tensor) -> Inputs:
    """Some rows, in the form that ``x`` has."""
    return x[indices] if isinstance(x, Tensor) else x[indices.numpy()]


def batches(order: Tensor, batch_size: int) -> Iterator[Tensor]:
    """An order of samples (N,) in pieces; the last one may be smaller."""
    return iter(torch.split(order, batch_size))


@torch.no_grad()
def predict(model: nn.Module, x: Inputs, *, batch_size: int = 1024) -> Tensor:
    """Outputs of a model on many inputs, batch by batch, in evaluation mode.

    Args:
        model: Its first layer must take what ``x`` is.
        x: (N, n_features) floating tensor, or a ``scipy.sparse`` matrix in CSR form.
        batch_size: Samples at a time.

    Returns:
        (N, n_outputs).

    Raises:
        TypeError: ``x`` is neither.
    """
    check_inputs(x)
    was_training = model.training
    model.eval()
    try:
        parts = [
            model(rows_of(x, indices))
            for indices in torch.split(torch.arange(int(x.shape[0])), batch_size)
        ]
    finally:
        model.train(was_training)
    return torch.cat(parts)
