"""Other people's sparse linear layers, each as a training step on given data, with results checked.

None of them is a dependency of regrow.
"""

from __future__ import annotations

import importlib.metadata
import os
import warnings
from collections.abc import Callable, Iterable

import torch
from in_turn import Run, step
from torch import Tensor

from regrow.ops import CSR, to_dense

CLOSE = {"rtol": 1e-3, "atol": 1e-3}


def csr(layout: CSR, values: Tensor, x: Tensor, dy: Tensor) -> Run:
    """torch.sparse: the same matrix as a CSR tensor.

    Args:
        layout: Of the weight (n_out, n_in).
        values: (nnz,).
        x: (B, n_in).
        dy: (B, n_out).
    """
    parts = layout.row_ptr, layout.columns.to(torch.int64), values
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        weight = torch.sparse_csr_tensor(*parts, layout.shape, check_invariants=True)
    weight.requires_grad_()
    x = x.detach().clone().requires_grad_()

    def run() -> None:
        step(lambda: torch.sparse.mm(weight, x.t()).t(), (x, weight), dy)

    run()
    dense = to_dense(values, layout)
    entries = (dy.t() @ x.detach()).reshape(-1)[layout.positions]
    torch.testing.assert_close(torch.sparse.mm(weight, x.t()).t(), x @ dense.t(), **CLOSE)
    torch.testing.assert_close(x.grad, dy @ dense, **CLOSE)
    torch.testing.assert_close(weight.grad.values(), entries, **CLOSE)
    return run


def sparselab(layout: CSR, values: Tensor, x: Tensor, dy: Tensor) -> Run:
    """SparseLab's layer of the same shape and sparsity, with connections of its own.

    Its threads are those of OMP_NUM_THREADS, which is read when it is first imported.
    """
    del values
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    from sparselab import SparseLinear

    n_out, n_in = layout.shape
    n_elements = n_out * n_in
    layer = SparseLinear(n_in, n_out, bias=False, sparsity=1 - layout.nnz / n_elements)
    x = x.detach().clone().requires_grad_()

    def run() -> None:
        step(lambda: layer(x), (x, *layer.parameters()), dy)

    with torch.no_grad():
        dense = layer(torch.eye(n_in)).t().contiguous()
    # (Each of its connections is drawn by itself.)
    if abs(layer.nnz - layout.nnz) > 0.01 * layout.nnz + 5 * layout.nnz**0.5:
        raise AssertionError(f"sparselab has {layer.nnz} connections in place of {layout.nnz}")
    run()
    torch.testing.assert_close(layer(x), x @ dense.t(), **CLOSE)
    torch.testing.assert_close(x.grad, dy @ dense, **CLOSE)
    return run


RIVALS: dict[str, Callable[[CSR, Tensor, Tensor, Tensor], Run]] = {
    "csr": csr,
    "sparselab": sparselab,
}


def present(names: Iterable[str]) -> list[str]:
    """Those that are installed, with a line of each package that says so, or that it is not."""
    found = []
    for name in names:
        try:
            if name != "csr":
                print(f"{name} {importlib.metadata.version(name)}")
            found.append(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is left out: it is not installed (pip install {name})")
    return found
