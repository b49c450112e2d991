"""Sparse inputs against dense float64 products: forward, values, bias; nothing dense is made."""

import pytest
import torch
from scipy import sparse
from torch.utils.flop_counter import FlopCounterMode

from regrow.errors import SparsityError
from regrow.ops import CSR, _sparse_input, available_backends, sparse_linear, to_dense
from regrow.topology import Topology

OPS = torch.ops.regrow
RUNS = [
    (name, dtype)
    for dtype in (torch.float32, torch.float64)
    for name in available_backends("cpu", dtype)
]


def case(dtype, *, batch=9, n_in=13, n_out=7, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    mask = torch.rand(n_out, n_in, generator=generator) > 0.6
    mask[:, 2] = False
    layout = CSR.of(Topology.from_mask(mask))
    x = random(batch, n_in) * (torch.rand(batch, n_in, generator=generator) > 0.7)
    x[1] = 0
    return layout, random(layout.nnz), random(n_out), x, random(batch, n_out)


def of_scipy(x):
    return sparse.csr_matrix(x.numpy())


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize(("name", "dtype"), RUNS)
@pytest.mark.parametrize("made", [of_scipy, torch.Tensor.to_sparse_csr, sparse.csr_array])
@pytest.mark.parametrize("at_once", [2**22, 5])
def test_it_is_the_dense_product(monkeypatch, name, dtype, made, at_once):
    monkeypatch.setattr(_sparse_input, "AT_ONCE", at_once)
    layout, values, bias, x, dy = case(dtype)
    values, bias = values.requires_grad_(), bias.requires_grad_()
    y = sparse_linear(values, layout, made(x), bias=bias, backend=name)
    y.backward(dy)
    w, exact_x, exact_dy = to_dense(values.detach(), layout).double(), x.double(), dy.double()
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {}
    for found, expected in (
        (y, exact_x @ w.t() + bias.double()),
        (values.grad, (exact_dy.t() @ exact_x).reshape(-1)[layout.positions]),
        (bias.grad, exact_dy.sum(0)),
    ):
        torch.testing.assert_close(found.detach(), expected.detach().to(dtype), **tolerance)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_threads_change_no_bit(monkeypatch, n_threads):
    monkeypatch.setattr("regrow.ops._threads.n_parts", lambda n_flops: n_threads)
    layout, values, _, x, dy = case(torch.float32, batch=60, n_in=90, n_out=40)
    values.requires_grad_()
    y = sparse_linear(values, layout, of_scipy(x))
    y.backward(dy)
    monkeypatch.setattr("regrow.ops._threads.n_parts", lambda n_flops: 1)
    again = values.detach().clone().requires_grad_()
    z = sparse_linear(again, layout, of_scipy(x))
    z.backward(dy)
    assert torch.equal(y, z)
    assert torch.equal(values.grad, again.grad)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # opcheck's own
@pytest.mark.parametrize("name", available_backends("cpu", torch.float64))
def test_gradients_of_gradients_and_schema(name):
    layout, values, _, x, dy = case(torch.float64)
    values.requires_grad_()
    matrix = of_scipy(x)
    assert torch.autograd.gradgradcheck(
        lambda v: sparse_linear(v, layout, matrix, backend=name), (values,)
    )
    given = _sparse_input.read(matrix)[:3]
    torch.library.opcheck(
        OPS.sparse_input_product.default,
        (values, *given, *layout.column_form, layout.shape[0], name),
    )
    torch.library.opcheck(
        OPS.sparse_input_sampled.default,
        (dy.requires_grad_(), *given, *layout.column_form, name),
    )


def test_flops_where_columns_are_used_alike():
    layout = CSR.of(Topology.full((3, 4)))
    with FlopCounterMode(display=False) as counter:
        sparse_linear(torch.ones(12), layout, of_scipy(torch.eye(4)))
    assert counter.get_total_flops() == 2 * 4 * 3


def test_edges():
    layout, values, *_ = case(torch.float32)
    assert sparse_linear(values, layout, sparse.csr_matrix((0, 13), dtype="f4")).shape == (0, 7)
    assert not sparse_linear(values, layout, sparse.csr_matrix((2, 13), dtype="f4")).any()
    # Entries in any order, and twice the same.
    twice = sparse.csr_matrix(
        (torch.tensor([1.0, 2.0, 3.0]).numpy(), [5, 1, 5], [0, 3]), shape=(1, 13)
    )
    expected = sparse_linear(values, layout, torch.from_numpy(twice.toarray()))
    torch.testing.assert_close(sparse_linear(values, layout, twice), expected)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_bad_inputs():
    layout, values, _, x, _ = case(torch.float32)
    with pytest.raises(TypeError, match=r"x must be in compressed rows, got the format 'csc'"):
        sparse_linear(values, layout, of_scipy(x).tocsc())
    with pytest.raises(TypeError, match="x must have one dtype"):
        sparse_linear(values, layout, of_scipy(x.double()))
    with pytest.raises(TypeError, match=r"x must be dense or torch.sparse_csr"):
        sparse_linear(values, layout, x.to_sparse())
    with pytest.raises(SparsityError, match="x must have 13 columns"):
        sparse_linear(values, layout, of_scipy(x[:, :5]))
    with pytest.raises(SparsityError, match="gets no gradient"):
        sparse_linear(values, layout, x.to_sparse_csr().requires_grad_())
    broken = of_scipy(x)
    broken.indices[0] = 99
    with pytest.raises(SparsityError, match=r"columns of x must lie in \[0, 13\)"):
        sparse_linear(values, layout, broken)
