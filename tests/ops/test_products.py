"""Every back end against float64 products of dense matrices: forward and both gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regrow.ops import (
    CSR,
    _numba,
    available_backends,
    product,
    sampled_at,
    sampled_product,
    sparse_linear,
    to_dense,
    transposed_product,
)
from regrow.ops._dispatch import BY_NAME
from regrow.topology import Topology

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
RUNS = [(name, dtype) for dtype in DTYPES for name in available_backends("cpu", dtype)]
BATCHES = (0, 1, 2, 3, 17, 64, 127, 128, 130, 256, 300)


def layout_of(n_out, n_in, sparsity, *, seed=0, empty=True):
    """A random layout, with empty rows and columns where it has room for them."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(n_out, n_in, generator=generator) >= sparsity
    if empty and n_out > 2:
        mask[1] = False
    if empty and n_in > 2:
        mask[:, n_in // 2] = False
    return CSR.of(Topology.from_mask(mask))


def random(*shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def assert_close(found, expected, name, dtype):
    found, expected = found.detach(), expected.detach()
    assert found.dtype == dtype
    assert found.shape == expected.shape
    relative, absolute = BY_NAME[name].tolerances[dtype]
    # Entries are sums of about as many terms as their scale says.
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found.double(), expected, rtol=relative, atol=absolute * scale)


def check(layout, leading, name, dtype, arrange=lambda tensor: tensor):
    """Forward and all gradients of one case."""
    n_out, n_in = layout.shape
    values = random(layout.nnz, dtype=dtype, seed=1).requires_grad_()
    bias = random(n_out, dtype=dtype, seed=2).requires_grad_()
    x = arrange(random(*leading, n_in, dtype=dtype, seed=3)).requires_grad_()
    dy = arrange(random(*leading, n_out, dtype=dtype, seed=4))
    w = to_dense(values.detach(), layout).double()
    exact_x, exact_dy = x.detach().double(), dy.double()
    flat_x, flat_dy = exact_x.reshape(-1, n_in), exact_dy.reshape(-1, n_out)
    entries = (flat_dy.t() @ flat_x).reshape(-1)[layout.positions]

    y = sparse_linear(values, layout, x, bias=bias, backend=name)
    assert_close(y, exact_x @ w.t() + bias.double(), name, dtype)
    y.backward(dy)
    assert_close(x.grad, exact_dy @ w, name, dtype)
    assert_close(values.grad, entries, name, dtype)
    assert_close(bias.grad, flat_dy.sum(0), name, dtype)
    with torch.no_grad():
        plain = product(values, layout, x, backend=name)
        assert_close(plain, exact_x @ w.t(), name, dtype)
        assert_close(
            transposed_product(values, layout, dy, backend=name), exact_dy @ w, name, dtype
        )
        assert_close(sampled_product(layout, dy, x, backend=name), entries, name, dtype)


@pytest.mark.parametrize(("name", "dtype"), RUNS)
@pytest.mark.parametrize("batch", BATCHES)
def test_batches(name, dtype, batch):
    check(layout_of(21, 35, 0.7), (batch,), name, dtype)


@pytest.mark.parametrize(("name", "dtype"), RUNS)
@pytest.mark.parametrize(
    ("n_out", "n_in", "sparsity"),
    [(1, 1, 0.0), (1, 40, 0.5), (40, 1, 0.5), (7, 9, 1.0), (17, 33, 0.0), (64, 16, 0.95)],
)
def test_shapes(name, dtype, n_out, n_in, sparsity):
    for batch in (1, 5, 32):
        check(layout_of(n_out, n_in, sparsity, empty=False), (batch,), name, dtype)


@pytest.mark.parametrize(("name", "dtype"), RUNS)
@pytest.mark.parametrize("leading", [(), (4,), (3, 5), (2, 64), (2, 1, 3), (0, 4)])
def test_leading_dimensions(name, dtype, leading):
    check(layout_of(12, 20, 0.6), leading, name, dtype)


def feature_major(tensor):
    return tensor.t().contiguous().t()


ARRANGEMENTS = {
    "feature-major": feature_major,
    "every second sample": lambda t: torch.cat([t, t]).view(2, *t.shape).transpose(0, 1)[:, 0],
    "every second feature": lambda t: torch.stack([t, t], 2).flatten(1)[:, ::2],
    "one row expanded": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.parametrize(("name", "dtype"), RUNS)
@pytest.mark.parametrize("how", ARRANGEMENTS)
@pytest.mark.parametrize("batch", [8, 33, 160])
def test_strides(name, dtype, how, batch):
    check(layout_of(19, 26, 0.6), (batch,), name, dtype, ARRANGEMENTS[how])


@pytest.mark.parametrize("batch", [3, 128, 300])
@pytest.mark.parametrize("backend", available_backends("cpu", torch.float32))
def test_results_are_feature_major(backend, batch):
    layout = layout_of(12, 20, 0.5)
    values, x = torch.randn(layout.nnz), torch.randn(batch, 20)
    y = product(values, layout, x, backend=backend)
    assert y.stride() == (1, batch)
    assert y.relu().stride() == (1, batch)
    assert transposed_product(values, layout, y, backend=backend).stride() == (1, batch)


@pytest.mark.parametrize("batch", [8, 128, 300])
@pytest.mark.parametrize("backend", available_backends("cpu", torch.float32))
@pytest.mark.parametrize("arrange", [lambda t: t, feature_major])
def test_input_gradients_have_the_order_of_the_input(backend, batch, arrange):
    layout = layout_of(12, 20, 0.5)
    values, x = torch.randn(layout.nnz), arrange(torch.randn(batch, 20)).requires_grad_()
    seen = []
    inner = x * 1.0
    inner.register_hook(lambda grad: seen.append(grad.stride()))
    sparse_linear(values, layout, inner, backend=backend).sum().backward()
    assert seen == [x.stride()]


def test_wide_inputs_are_done_in_blocks_of_columns():
    # (2,048 inputs x 128 samples x 8 bytes are more than the kernels keep at a time.)
    for dtype in (torch.float32, torch.float64):
        for name in available_backends("cpu", dtype):
            check(layout_of(9, 5003, 0.9), (130,), name, dtype)


@pytest.mark.skipif(bool(_numba.missing()), reason=_numba.missing() or "numba is here")
@pytest.mark.parametrize("batch", [5, 16, 129])
def test_inputs_too_many_for_the_caches_are_fetched_ahead(batch):
    sparse = pytest.importorskip("scipy.sparse")
    shape = n_out, n_in = 70_001, 80_001
    places = torch.randint(n_out * n_in, (120_000,), generator=torch.Generator().manual_seed(3))
    places = places.unique()
    row_ptr = torch.searchsorted(places, n_in * torch.arange(n_out + 1))
    layout = CSR(row_ptr, (places % n_in).int(), shape)
    values = random(layout.nnz, dtype=torch.float32, seed=0).requires_grad_()
    csr = (one.numpy() for one in (values.detach().double(), layout.columns, layout.row_ptr))
    w = sparse.csr_matrix(tuple(csr), shape=shape)
    x = random(batch, n_in, dtype=torch.float32, seed=1).requires_grad_()
    dy = random(batch, n_out, dtype=torch.float32, seed=2)
    y = sparse_linear(values, layout, x, backend="numba")
    y.backward(dy)
    exact = torch.from_numpy(w @ x.detach().double().numpy().T).t()
    torch.testing.assert_close(y.detach().double(), exact, rtol=1e-5, atol=1e-5)
    exact = torch.from_numpy(w.T @ dy.double().numpy().T).t()
    torch.testing.assert_close(x.grad.double(), exact, rtol=1e-5, atol=1e-5)
    rows, columns = layout.rows, layout.columns.long()
    exact = (dy.double()[:, rows] * x.detach().double()[:, columns]).sum(0)
    torch.testing.assert_close(values.grad.double(), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("name", "dtype"), RUNS)
def test_the_bias_is_added_once(name, dtype):
    layout = layout_of(5, 6000, 1.0)
    y = sparse_linear(
        torch.zeros(0, dtype=dtype),
        layout,
        torch.ones(130, 6000, dtype=dtype),
        bias=torch.arange(5, dtype=dtype),
        backend=name,
    )
    assert torch.equal(y, torch.arange(5, dtype=dtype).expand(130, 5))


@pytest.mark.parametrize(("name", "dtype"), RUNS)
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_sampled_at_takes_any_positions(name, dtype, index):
    dy, x = random(3, 7, 11, dtype=dtype, seed=1), random(3, 7, 13, dtype=dtype, seed=2)
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(11, (60,), generator=generator, dtype=index)
    columns = torch.randint(13, (60,), generator=generator, dtype=index)
    exact = dy.double().flatten(0, 1).t() @ x.double().flatten(0, 1)
    for chosen in (rows, rows.sort().values, rows[:0]):
        found = sampled_at(chosen, columns[: len(chosen)], dy, x, backend=name)
        expected = exact[chosen.long(), columns[: len(chosen)].long()]
        assert_close(found, expected, name, dtype)


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    batch=st.integers(0, 200),
    sparsity=st.floats(0, 1),
    run=st.sampled_from(RUNS),
    fast=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_case(shape, batch, sparsity, run, fast, seed):
    layout = layout_of(*shape, sparsity, seed=seed)
    check(layout, (batch,), *run, feature_major if fast else lambda t: t)


@given(shape=st.tuples(st.integers(1, 20), st.integers(1, 20)), seed=st.integers(0, 1000))
def test_to_dense(shape, seed):
    layout = layout_of(*shape, 0.6, seed=seed)
    values = torch.arange(1.0, layout.nnz + 1, requires_grad=True)
    dense = to_dense(values, layout)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[layout.positions] = True
    assert torch.equal(dense[mask], values)
    assert not dense[~mask].any()
    (dense * 3).sum().backward()
    assert torch.equal(values.grad, torch.full((layout.nnz,), 3.0))


def test_numbers_by_hand():
    layout = CSR.of(Topology.from_mask(torch.tensor([[True, False, True], [False, True, False]])))
    values = torch.tensor([2.0, 3.0, 5.0])
    x = torch.tensor([[1.0, 10.0, 100.0]])
    for name in available_backends("cpu", torch.float32):
        assert product(values, layout, x, backend=name).tolist() == [[302.0, 50.0]]
        dy = torch.tensor([[1.0, 7.0]])
        assert transposed_product(values, layout, dy, backend=name).tolist() == [[2.0, 35.0, 3.0]]
        assert sampled_product(layout, dy, x, backend=name).tolist() == [1.0, 100.0, 70.0]


@pytest.mark.parametrize("name", available_backends("cpu", torch.float32))
def test_infinities_and_nan_stay_where_they_are(name):
    layout = CSR.of(Topology.from_mask(torch.tensor([[True, True], [False, True]])))
    x = torch.tensor([[float("nan"), 1.0], [float("inf"), 1.0]])
    y = product(torch.ones(3), layout, x, backend=name)
    assert y[:, 0].isnan().tolist() == [True, False]
    assert y[1, 0] == float("inf")
    assert y[:, 1].tolist() == [1.0, 1.0]
