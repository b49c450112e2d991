"""SparseLinear beside torch.nn.Linear with zeros: a drop-in, whatever the input."""

import copy
import io
import math
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

import regrow
from regrow._resize import resize
from regrow.errors import SparsityError
from regrow.nn import SparseLinear, SparseModule, dense_form, densify_, sparse_form
from regrow.topology import NM, Block, ConstantFanIn, Topology, derived_generator, random_topology

STRUCTURES = [NM(2, 4), Block(2, 4), ConstantFanIn(), regrow.OutChannel(), regrow.InChannel()]


def layer(*, bias=True, dtype=torch.float64, **options):
    return SparseLinear(24, 12, bias, **{"sparsity": 0.7, "seed": 3, "dtype": dtype, **options})


def dense_of(sparse):
    """An independent reference: torch's layer with the same weight."""
    made = nn.Linear(24, 12, sparse.bias is not None, dtype=sparse.values.dtype)
    with torch.no_grad():
        made.weight.copy_(sparse.dense_weight())
        if sparse.bias is not None:
            made.bias.copy_(sparse.bias)
    return made


def normal(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


# -- results and gradients -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(24,), (1, 24), (7, 24), (0, 24), (2, 3, 24), (2, 1, 4, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_and_gradients(shape, bias):
    ours = layer(bias=bias)
    theirs = dense_of(ours)
    x = normal(*shape)
    mine, other = (x.clone().requires_grad_() for _ in range(2))
    y, wanted = ours(mine), theirs(other)
    assert y.shape == wanted.shape
    assert y.dtype == wanted.dtype
    torch.testing.assert_close(y, wanted, rtol=0, atol=1e-12)
    dy = normal(*wanted.shape, seed=1)
    y.backward(dy)
    wanted.backward(dy)
    torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-12)
    live = theirs.weight.grad.reshape(-1)[ours.topology.indices]
    torch.testing.assert_close(ours.values.grad, live, rtol=0, atol=1e-12)
    if bias:
        torch.testing.assert_close(ours.bias.grad, theirs.bias.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("x", [
    normal(24, 7).t(), normal(7, 48)[:, ::2], normal(14, 24)[::2], normal(1, 24).expand(5, 24),
    normal(24, 3, 4).permute(2, 1, 0),
], ids=["transposed", "columns", "rows", "expanded", "permuted"])  # fmt: skip
def test_any_strides(x):
    ours = layer()
    torch.testing.assert_close(ours(x), dense_of(ours)(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("change", [
    torch.relu_, lambda y: y.mul_(2), lambda y: y.add_(1.0), nn.ReLU(inplace=True),
    nn.functional.hardtanh_, torch.tanh_,
], ids=["relu", "mul", "add", "module", "hardtanh", "tanh"])  # fmt: skip
@pytest.mark.parametrize("shape", [(7, 24), (2, 3, 24), (24,)])
@pytest.mark.parametrize("watched", [False, True])
def test_what_comes_behind_may_write_in_place(change, shape, watched):
    """As behind torch's layer; also while the layer keeps output gradients."""
    found = []
    ours = layer()
    x = normal(*shape)
    owner = SparseLinear(2, 2, sparsity=0.5)  # anything that lives
    if watched:
        ours.watch(owner)
    for net in (ours, dense_of(ours)):
        change(net(x)).square().sum().backward()
        weight = net.values if isinstance(net, SparseModule) else net.weight
        grad = weight.grad
        found.append(grad if grad.dim() == 1 else grad.reshape(-1)[ours.topology.indices])
    torch.testing.assert_close(*found, rtol=0, atol=1e-11)
    if watched:
        rows = [ours.grad_rows(x_, dy, 0, 12) for x_, dy in ours.watched]
        assert len(rows) == 1
        torch.testing.assert_close(
            rows[0].reshape(-1)[ours.topology.indices], found[1], rtol=0, atol=1e-11
        )


def test_second_derivatives():
    ours = layer()
    x = normal(5, 24).requires_grad_()
    assert torch.autograd.gradgradcheck(ours, (x,))
    assert torch.autograd.gradcheck(ours, (x,))


def test_sparse_input():
    ours = layer()
    dense = np.where(normal(9, 24).numpy() > 0.8, normal(9, 24, seed=2).numpy(), 0.0)
    y = ours(scipy.sparse.csr_matrix(dense))
    theirs = dense_of(ours)
    wanted = theirs(torch.from_numpy(dense))
    torch.testing.assert_close(y, wanted, rtol=0, atol=1e-12)
    y.square().sum().backward()
    wanted.square().sum().backward()
    live = theirs.weight.grad.reshape(-1)[ours.topology.indices]
    torch.testing.assert_close(ours.values.grad, live, rtol=0, atol=1e-11)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures(structure):
    sparsity = None if structure.fixed_sparsity is not None else 0.5
    ours = layer(structure=structure, sparsity=sparsity)
    assert ours.structure == structure
    assert ours.sparsity == pytest.approx(0.5, abs=0.05)
    x = normal(4, 24)
    torch.testing.assert_close(ours(x), dense_of(ours)(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("nnz", [0, 1, 288])
def test_empty_and_full(nnz):
    topology = random_topology((12, 24), nnz, generator=derived_generator(0))
    ours = layer(sparsity=None, topology=topology)
    assert ours.values.shape == (nnz,)
    x = normal(4, 24).requires_grad_()
    y = ours(x)
    torch.testing.assert_close(y, dense_of(ours)(x), rtol=0, atol=1e-12)
    y.sum().backward()
    assert ours.values.grad.shape == (nnz,)
    rest = SparseLinear(24, 12, sparsity=0.0)
    assert rest.nnz == 288


# -- construction --------------------------------------------------------------------------------


def test_parameters_and_names():
    ours = layer()
    assert {name: tuple(p.shape) for name, p in ours.named_parameters()} == {
        "values": (86,),
        "bias": (12,),
    }
    assert list(ours.state_dict()) == ["values", "bias", "_extra_state"]
    assert not list(ours.buffers())
    assert repr(ours) == (
        "SparseLinear(in_features=24, out_features=12, bias=True, nnz=86, sparsity=0.7014)"
    )
    assert "NM" in repr(layer(structure=NM(1, 4), sparsity=None))
    assert "backend" not in ours.state_dict()
    assert (ours.nnz, ours.weight_shape) == (86, (12, 24))


def test_the_same_seed_makes_the_same_layer():
    state = torch.random.get_rng_state()
    one, two, other = layer(), layer(), layer(seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one.values, two.values)
    assert torch.equal(one.bias, two.bias)
    assert one.topology == two.topology
    assert other.topology != one.topology
    assert not torch.equal(other.values, one.values)


def test_values_are_drawn_by_the_inputs_an_output_really_has():
    ours = SparseLinear(4000, 300, sparsity=0.99, seed=0, dtype=torch.float64)
    row_ptr, _ = ours.topology.csr
    values = ours.values.detach()
    scaled = torch.cat([
        row * math.sqrt(len(row)) for row in values.split(row_ptr.diff().tolist()) if len(row)
    ])  # fmt: skip
    assert float(scaled.abs().max()) <= 1 + 1e-12
    assert float(scaled.mean()) == pytest.approx(0, abs=0.03)
    assert float(scaled.var()) == pytest.approx(1 / 3, rel=0.05)
    assert float(ours.bias.detach().abs().max()) <= 1 / math.sqrt(4000)
    assert bool(values.all())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sparsity": 1.0}, ValueError, r"sparsity.*\[0, 1\).*1"),
        ({"sparsity": -0.1}, ValueError, "sparsity"),
        ({"sparsity": None}, ValueError, r"sparsity must be a fraction in \[0, 1\), got None"),
        ({"sparsity": "0.5"}, (TypeError, ValueError), "sparsity"),
        ({"sparsity": float("nan")}, ValueError, "sparsity"),
        ({"sparsity": 0.3, "structure": NM(2, 4)}, ValueError, r"at 0\.5, got sparsity=0\.3"),
        ({"structure": Block(5, 4)}, ValueError, r"12"),
        ({"structure": "2:4"}, TypeError, "structure"),
        ({"seed": 0.5}, TypeError, r"seed must be an integer, got 0\.5"),
        ({"seed": True}, TypeError, "seed"),
        ({"backend": "mkl"}, ValueError, "backend must be .* got 'mkl'"),
        ({"dtype": torch.int64}, (TypeError, ValueError), "dtype"),
        ({"dtype": torch.complex64}, (TypeError, ValueError), "dtype"),
        ({"topology": Topology.full((3, 3)), "sparsity": None}, ValueError, "shape"),
        ({"topology": Topology.full((12, 24))}, ValueError, "topology|sparsity"),
    ],
)
def test_what_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        layer(**options)


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (-1, 2), (2.5, 2), ("3", 2), (True, 3)])
def test_sizes_that_are_none(sizes):
    with pytest.raises((TypeError, ValueError), match="_features must be"):
        SparseLinear(*sizes, sparsity=0.5)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (normal(3, 23), r"24.*\(3, 23\)"),
        (normal(3, 24, dtype=torch.float32), "float64.*float32|float32.*float64"),
        (torch.zeros(3, 24, dtype=torch.int64), "dtype|float64"),
        (torch.tensor(1.0, dtype=torch.float64), "24"),
        ([[0.0] * 24], "x must be a tensor"),
    ],
)
def test_input_that_does_not_fit(x, message):
    with pytest.raises((TypeError, ValueError), match=message):
        layer()(x)


# -- devices, dtypes and modes -------------------------------------------------------------------


def test_meta_and_back():
    ours = layer()
    made = SparseLinear(24, 12, sparsity=0.7, seed=3, dtype=torch.float64, device="meta")
    assert made.values.is_meta
    assert made.bias.is_meta
    assert made.nnz == 86
    made.to_empty(device="cpu")
    made.load_state_dict(ours.state_dict())
    assert torch.equal(made(normal(2, 24)), ours(normal(2, 24)))
    again = SparseLinear(24, 12, sparsity=0.2, seed=9, dtype=torch.float64, device="meta")
    again.load_state_dict(ours.state_dict(), assign=True)
    assert torch.equal(again(normal(2, 24)), ours(normal(2, 24)))


def test_other_dtypes():
    ours = layer(dtype=torch.float32)
    x = normal(4, 24)
    wanted = dense_of(ours.double())(x)
    torch.testing.assert_close(ours(x), wanted, rtol=0, atol=1e-12)
    ours = ours.bfloat16()
    assert ours.values.dtype == torch.bfloat16
    y = ours(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), wanted, rtol=0.05, atol=0.05)
    y.sum().backward()
    assert ours.values.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    ours = layer(dtype=torch.float32)
    theirs = dense_of(ours)
    x = normal(4, 24, dtype=torch.float32)
    for net in (ours, theirs):
        net.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            y = net(x)
        assert y.dtype == dtype
        y.float().sum().backward()
    assert ours.values.grad.dtype == torch.float32
    live = theirs.weight.grad.reshape(-1)[ours.topology.indices]
    torch.testing.assert_close(ours.values.grad, live, rtol=0.02, atol=0.02)


def test_frozen_and_evaluating():
    ours = layer()
    ours.requires_grad_(False)
    x = normal(3, 24).requires_grad_()
    ours(x).sum().backward()
    assert ours.values.grad is None
    torch.testing.assert_close(x.grad, ours.dense_weight().sum(0).expand(3, 24))
    with torch.inference_mode():
        ours(normal(3, 24))
    assert ours(normal(3, 24)).requires_grad is False


def test_functional_transforms():
    ours = layer()
    x = normal(5, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is slow, says torch
        batched = torch.func.vmap(ours)(x)
    torch.testing.assert_close(batched, dense_of(ours)(x), rtol=0, atol=1e-12)
    other = {"values": torch.zeros(86, dtype=torch.float64), "bias": ours.bias}
    assert torch.equal(torch.func.functional_call(ours, other, (x,)), ours.bias.expand(5, 12))


# -- copies and forms ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("watched", [False, True])
def test_copies_are_their_own_and_watch_nothing(way, watched):
    ours = layer()
    x = normal(3, 24)
    owner = SparseLinear(2, 2, sparsity=0.5)  # anything that lives
    if watched:
        ours.watch(owner)
    ours(x).sum().backward()
    if way == "deepcopy":
        made = copy.deepcopy(ours)
    else:
        file = io.BytesIO()
        torch.save(ours, file)
        file.seek(0)
        made = torch.load(file, weights_only=False)
    for _ in range(3):
        made(x).sum().backward()
    assert made.watched == []
    assert torch.equal(made.values, ours.values)
    with torch.no_grad():
        made.values.zero_()
    assert bool(ours.values.all())
    assert made.topology == ours.topology
    assert len(ours.watched) == watched
    del owner
    ours(x).sum().backward()
    assert not ours.watched, "nobody is there to read it"


@pytest.mark.parametrize("bias", [True, False])
def test_dense_and_sparse_forms(bias):
    ours = layer(bias=bias).eval()
    dense = dense_form(ours)
    assert type(dense) is nn.Linear
    assert not dense.training
    assert dense.bias is ours.bias
    x = normal(3, 24)
    torch.testing.assert_close(dense(x), ours(x), rtol=0, atol=1e-12)
    back = sparse_form(dense, ours.topology)
    assert torch.equal(back.values, ours.values)
    assert not back.training
    assert back.bias is ours.bias
    ours.values.requires_grad_(False)
    assert not dense_form(ours).weight.requires_grad
    assert not sparse_form(dense_form(ours), ours.topology).values.requires_grad


def test_densify_everywhere():
    shared = layer()
    net = nn.Sequential(shared, nn.Linear(12, 24).double(), nn.ModuleDict({"again": shared}))
    made = densify_(net)
    assert made is net
    assert type(net[0]) is nn.Linear
    assert net[2]["again"] is net[0]
    alone = layer()
    assert type(densify_(alone)) is nn.Linear


def test_forms_that_there_are_not():
    with pytest.raises(TypeError, match="no truly sparse Bilinear"):
        sparse_form(nn.Bilinear(2, 2, 2), Topology.full((2, 2, 2)))
    with pytest.raises(SparsityError, match=r"topology has shape \(3, 3\), the weight \(2, 3\)"):
        sparse_form(nn.Linear(3, 2), Topology.full((3, 3)))


def test_resize_keeps_the_object_and_its_hooks():
    parameter = nn.Parameter(normal(5))
    called = []
    parameter.register_post_accumulate_grad_hook(lambda p: called.append(p.grad.numel()))
    loss = (parameter * 2).sum()
    loss.backward()
    kept = id(parameter)
    resize(parameter, normal(8))
    assert (id(parameter), parameter.grad) == (kept, None)
    (parameter * 3).sum().backward()  # `loss` still holds the graph of five
    assert torch.equal(parameter.grad, torch.full((8,), 3.0, dtype=torch.float64))
    assert called == [5, 8]
    assert loss.requires_grad


def test_adopting_another_kind_of_topology():
    ours = layer()
    for other in (Topology.full((24, 12)), Topology.full((12, 24), structure=ConstantFanIn())):
        with pytest.raises(SparsityError, match=r"the layer is of shape \(12, 24\), Unstructured"):
            ours.adopt(other)


@pytest.mark.parametrize("form", ["coo", "csc", "lil"])
def test_other_sparse_forms_are_told_the_way(form):
    sp = pytest.importorskip("scipy.sparse", reason="its matrices are the input")
    x = sp.random(3, 6, 0.5, format=form, dtype="float32")
    layer = SparseLinear(6, 4, sparsity=0.5)
    message = rf"CSR\), got {form}_matrix of shape \(3, 6\) and dtype float32; x\.tocsr\(\)"
    with pytest.raises(TypeError, match=message):
        layer(x)
    assert layer(x.tocsr()).shape == (3, 4)


def test_arrays_are_named_by_type_and_shape():
    with pytest.raises(TypeError) as raised:
        SparseLinear(6, 4, sparsity=0.5)(torch.ones(3, 6).numpy())
    assert str(raised.value) == (
        "x must be a tensor, got ndarray of shape (3, 6) and dtype float32; torch.from_numpy(x) "
        "is one"
    )
    with pytest.raises(TypeError, match=r"^x must be a tensor, got list$"):
        SparseLinear(6, 4, sparsity=0.5)([[1.0] * 6])
