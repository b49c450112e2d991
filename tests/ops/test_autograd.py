"""The step of a linear layer without detours: what torch promises of its own holds here, too."""

import pickle

import pytest
import torch
from torch.autograd import forward_ad

from regrow._resize import resize
from regrow.nn import SparseConv1d, SparseLinear
from regrow.ops import CSR, available_backends, sparse_linear
from regrow.topology import Topology, derived_generator, random_topology

BACKENDS = available_backends("cpu", torch.float64)


def layer(n_in=12, n_out=7, **arguments):
    return SparseLinear(n_in, n_out, sparsity=0.6, seed=3, dtype=torch.float64, **arguments)


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("grad", [True, False])
def test_tracing(grad):
    ours = layer()
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(ours, (normal(8, 12),))
        for batch in (8, 3):
            x = normal(batch, 12, seed=2)
            torch.testing.assert_close(traced(x), ours(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("batch", [0, 1, 2, 130])
@pytest.mark.parametrize("shape", [(5, 0), (0, 5), (0, 0), (4, 6)])
def test_layouts_of_nothing(shape, batch, name):
    n_out, n_in = shape
    row_ptr = torch.zeros(n_out + 1, dtype=torch.int64)
    layout = CSR(row_ptr, torch.empty(0, dtype=torch.int32), shape)
    values = torch.zeros(0, dtype=torch.float64, requires_grad=True)
    bias = normal(n_out).requires_grad_()
    x = normal(batch, n_in).requires_grad_()
    full = [torch.full((batch * (n_out + n_in),), 7.0) for _ in range(4)]
    del full  # (what is not written shows)
    y = sparse_linear(values, layout, x, bias=bias, backend=name)
    assert torch.equal(y, bias.expand(batch, -1))
    y.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert values.grad.shape == (0,)


def test_a_default_device_changes_nothing():
    ours, x = layer(), normal(4, 12).requires_grad_()
    expected = ours(x)
    with torch.device("meta"):
        y = ours(x)
        y.sum().backward()
    assert torch.equal(y, expected)
    assert torch.equal(ours.values.grad.sign().abs().sum(), torch.tensor(float(ours.nnz)).double())


def test_a_pickled_layout_forgets_what_it_chose():
    ours = layer()
    ours(normal(4, 12).requires_grad_()).sum().backward()
    assert ours.layout.checked
    copy = pickle.loads(pickle.dumps(ours.layout))
    assert not copy.checked
    assert "_whole" not in copy.__dict__
    assert torch.equal(copy.columns, ours.layout.columns)
    assert copy.shape == ours.layout.shape


def test_forward_mode_is_refused():
    ours, conv = layer(), SparseConv1d(2, 3, 3, sparsity=0.5, dtype=torch.float64)
    for module, x in ((ours, normal(4, 12)), (conv, normal(1, 2, 9))):
        module(x)
        with pytest.raises(NotImplementedError, match="forward-mode"):
            torch.func.jvp(module, (x,), (x,))
        with (
            forward_ad.dual_level(),
            torch.no_grad(),
            pytest.raises(NotImplementedError, match="forward-mode"),
        ):
            module(forward_ad.make_dual(x, x))
        with forward_ad.dual_level():
            module(x)  # nobody asks for a tangent


def test_a_rewiring_between_the_passes_is_told():
    ours = layer()
    y = ours(normal(4, 12).requires_grad_())
    fewer = random_topology((7, 12), torch.tensor([3]), generator=derived_generator(0, "fewer"))
    resize(ours.values, torch.ones(3, dtype=torch.float64))
    ours.adopt(fewer)
    with pytest.raises(RuntimeError, match="rewired between forward and backward"):
        y.sum().backward()


@pytest.mark.parametrize("name", BACKENDS)
def test_what_is_frozen_may_be_changed(name):
    ours = layer(backend=name)
    dense = ours.dense_weight()
    x = normal(4, 12).requires_grad_()
    inner = x * 1.0
    ours.values.requires_grad_(False)
    y = ours(inner)
    inner.data.zero_()
    inner.add_(0.0)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(4, 7, dtype=torch.float64) @ dense)
    assert x.grad.is_contiguous()

    ours.values.requires_grad_(True)
    x = normal(4, 12)
    y = ours(x)
    with torch.no_grad():
        ours.values.zero_()
    y.sum().backward()
    expected = (torch.ones(7, 4, dtype=torch.float64) @ x).reshape(-1)[ours.topology.indices]
    torch.testing.assert_close(ours.values.grad, expected)


@pytest.mark.parametrize("name", BACKENDS)
def test_batched_gradients(name):
    ours = layer(backend=name)
    x = normal(2, 12).requires_grad_()
    vectors = normal(5, 2, 7)
    y = ours(x)
    (batched,) = torch.autograd.grad(y, x, vectors, is_grads_batched=True, retain_graph=True)
    for one, vector in zip(batched, vectors, strict=True):
        torch.testing.assert_close(one, torch.autograd.grad(y, x, vector, retain_graph=True)[0])


def test_a_column_form_first_made_in_inference_mode_serves_training():
    ours = layer()
    with torch.inference_mode():
        ours.layout.pattern(with_columns=True)
    x = normal(4, 12).requires_grad_()
    (dx,) = torch.autograd.grad(ours(x).square().sum(), x, create_graph=True)
    dx.sum().backward()
    assert x.grad is not None


def test_none_is_no_tensor():
    layout = CSR.of(Topology(torch.tensor([0, 3]), (2, 2)))
    with pytest.raises(TypeError, match="x must be a tensor, got NoneType"):
        sparse_linear(torch.ones(2), layout, None)
    with pytest.raises(TypeError, match="values must be a tensor, got NoneType"):
        sparse_linear(None, layout, torch.ones(2, 2))
