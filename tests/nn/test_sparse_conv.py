"""SparseConv1d, 2d and 3d beside torch's convolutions with zeros."""

import copy
import itertools

import pytest
import torch
from torch import nn

import regrow
from regrow.errors import SparsityError
from regrow.nn import SparseConv1d, SparseConv2d, SparseConv3d, dense_form, sparse_form
from regrow.ops import _conv

KINDS = {1: (SparseConv1d, nn.Conv1d), 2: (SparseConv2d, nn.Conv2d), 3: (SparseConv3d, nn.Conv3d)}
OPTIONS = [
    {},
    {"stride": 2},
    {"padding": 1},
    {"dilation": 2, "padding": 2},
    {"groups": 2},
    {"groups": 4, "stride": 2, "padding": 1},
    {"padding": "same"},
    {"padding": "same", "dilation": 2, "groups": 2},
    {"padding": "valid", "bias": False},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": 2, "padding_mode": "circular", "stride": 2},
    {"padding": "same", "padding_mode": "replicate"},
]


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def pair(n_dims, *, kernel_size=3, sparsity=0.7, **options):
    """Ours, and torch's with the same weight: an independent reference."""
    ours_of, theirs_of = KINDS[n_dims]
    kind = {"dtype": torch.float64, **options}
    ours = ours_of(4, 8, kernel_size, **kind, sparsity=sparsity, seed=3)
    theirs = theirs_of(4, 8, kernel_size, **kind)
    with torch.no_grad():
        theirs.weight.copy_(ours.dense_weight())
        if ours.bias is not None:
            theirs.bias.copy_(ours.bias)
    return ours, theirs


def assert_same_step(ours, theirs, x):
    mine, other = (x.clone().requires_grad_() for _ in range(2))
    y, wanted = ours(mine), theirs(other)
    torch.testing.assert_close(y, wanted, rtol=0, atol=1e-11)
    dy = normal(*wanted.shape, seed=1)
    y.backward(dy)
    wanted.backward(dy)
    torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-11)
    live = theirs.weight.grad.reshape(-1)[ours.topology.indices]
    torch.testing.assert_close(ours.values.grad, live, rtol=0, atol=1e-11)
    if ours.bias is not None:
        torch.testing.assert_close(ours.bias.grad, theirs.bias.grad, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: " ".join(map(str, o.values())) or "plain"
)
@pytest.mark.parametrize("n_dims", KINDS)
def test_forward_and_gradients(n_dims, options):
    ours, theirs = pair(n_dims, **options)
    assert_same_step(ours, theirs, normal(3, 4, *(7, 6, 5)[:n_dims]))


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("kernel_size", [1, (1, 3), (5, 2)])
def test_kernels(kernel_size, sparsity):
    ours, theirs = pair(2, kernel_size=kernel_size, sparsity=sparsity)
    assert_same_step(ours, theirs, normal(2, 4, 9, 8))


@pytest.mark.parametrize("n_dims", KINDS)
def test_one_sample(n_dims):
    ours, theirs = pair(n_dims, padding=1)
    x = normal(4, *(5, 4, 3)[:n_dims])
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-11)


def test_memory_formats():
    ours, theirs = pair(2, padding=1)
    x = normal(2, 4, 6, 6)
    for given in (x.to(memory_format=torch.channels_last), x.expand(2, 4, 6, 6), x[:, :, ::2]):
        assert_same_step(ours, theirs, given)
        for net in (ours, theirs):
            net.zero_grad()


@pytest.mark.parametrize("n_dims", KINDS)
def test_what_comes_behind_may_write_in_place(n_dims):
    ours, theirs = pair(n_dims)
    x = normal(2, 4, *(5, 4, 3)[:n_dims])
    for net in (ours, theirs):
        nn.functional.relu(net(x), inplace=True).sum().backward()
    live = theirs.weight.grad.reshape(-1)[ours.topology.indices]
    torch.testing.assert_close(ours.values.grad, live, rtol=0, atol=1e-11)


@pytest.mark.parametrize("structure", [
    regrow.Kernel(), regrow.Kernel(per_output=True), regrow.OutChannel(), regrow.InChannel(),
    regrow.Block(2, 2), regrow.ConstantFanIn(), regrow.NM(2, 4), regrow.ChannelGroups(4),
])  # fmt: skip
def test_structures(structure):
    sparsity = None if structure.fixed_sparsity is not None else 0.5
    ours = SparseConv2d(
        4, 8, 3, sparsity=sparsity, structure=structure, seed=3, dtype=torch.float64
    )
    assert ours.structure == structure
    assert_same_step(ours, dense_form(copy.deepcopy(ours)), normal(2, 4, 5, 5))


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: " ".join(map(str, o.values())) or "plain"
)
def test_dense_form_and_back(options):
    ours, theirs = pair(2, **options)
    dense = dense_form(ours)
    assert dense.extra_repr() == theirs.extra_repr()
    x = normal(2, 4, 6, 6)
    torch.testing.assert_close(dense(x), ours(x), rtol=0, atol=1e-11)
    back = sparse_form(dense, ours.topology)
    assert back.extra_repr() == ours.extra_repr()
    assert torch.equal(back.values, ours.values)


def test_names_and_state():
    ours = pair(2)[0]
    assert list(ours.state_dict()) == ["values", "bias", "_extra_state"]
    other = SparseConv2d(4, 8, 3, sparsity=0.2, dtype=torch.float64)
    other.load_state_dict(ours.state_dict())
    assert torch.equal(other(normal(1, 4, 5, 5)), ours(normal(1, 4, 5, 5)))
    flat = regrow.nn.SparseLinear(36, 8, sparsity=0.7, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="begins with"):
        flat.load_state_dict(ours.state_dict())


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3, 8, 3), {"groups": 2}, "in_channels=3 must be divisible by groups=2"),
        ((4, 7, 3), {"groups": 2}, "out_channels=7 must be divisible by groups=2"),
        ((4, 8, (3, 3, 3)), {}, r"kernel_size must be an integer or 2 of them, got \(3, 3, 3\)"),
        ((4, 8, 0), {}, "kernel_size"),
        ((4, 8, 3), {"stride": 0}, "stride"),
        ((4, 8, 3), {"dilation": (1, 0)}, "dilation"),
        ((4, 8, 3), {"padding": -1}, "padding"),
        ((4, 8, 3), {"padding": "full"}, "padding must be one of same, valid; got 'full'"),
        ((4, 8, 3), {"padding": "same", "stride": 2}, "padding='same' needs stride 1"),
        ((4, 8, 3), {"padding_mode": "mirror"}, "padding_mode must be one of .*'mirror'"),
        ((4, 8, 3), {"groups": 0}, "groups"),
        ((0, 8, 3), {}, "in_channels"),
    ],
)
def test_what_is_refused(arguments, options, message):
    with pytest.raises((SparsityError, ValueError, TypeError), match=message):
        SparseConv2d(*arguments, **options, sparsity=0.5)


@pytest.mark.parametrize("x", [
    normal(2, 3, 6, 6), normal(2, 4, 6), normal(6, 6), normal(2, 4, 2, 2),
    normal(2, 4, 6, 6).float(),
])  # fmt: skip
def test_input_that_does_not_fit(x):
    with pytest.raises((TypeError, ValueError)):
        pair(2)[0](x)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # of torch's own
def test_rows_of_the_gradient_in_groups():
    """Blocks of rows that begin and end within groups."""
    ours, theirs = pair(2, groups=4, padding="same", kernel_size=(2, 3))
    x, dy = normal(3, 4, 5, 4), normal(3, 8, 5, 4, seed=1)
    theirs(x).backward(dy)
    wanted = theirs.weight.grad.reshape(8, -1)
    padded = nn.functional.pad(x, (1, 1, 0, 1))
    for first, last in itertools.combinations(range(9), 2):
        rows = (
            ours.grad_rows(x, dy, first, last)
            if _keeps_raw(ours, x)
            else ours.grad_rows(padded, dy, first, last)
        )
        torch.testing.assert_close(rows, wanted[first:last], rtol=0, atol=1e-11)


def _keeps_raw(layer, x):
    """Whether what is kept is the input as it came; it may be the padded one."""
    owner = nn.Module()
    layer.watch(owner)
    layer(x).sum().backward()
    ((kept, _),) = layer.watched
    layer.unwatch()
    return kept.shape == x.shape


def test_arrays_and_sparse_matrices_are_named_by_type_and_shape():
    sp = pytest.importorskip("scipy.sparse", reason="its matrices are the input")
    layer = SparseConv2d(3, 4, 3, sparsity=0.5)
    with pytest.raises(
        TypeError, match=r"^x must be a tensor, got ndarray of shape \(1, 3, 6, 6\)"
    ):
        layer(torch.ones(1, 3, 6, 6).numpy())
    with pytest.raises(TypeError, match=r"^x must be a tensor, got csr_matrix of shape \(3, 6\)"):
        layer(sp.random(3, 6, 0.5, format="csr"))


def test_a_kind_of_call_is_checked_once(monkeypatch):
    checked = []
    original = _conv._checked

    def spy(*arguments):
        checked.append(tuple(arguments[2].shape))
        return original(*arguments)

    monkeypatch.setattr(_conv, "_checked", spy)
    layer = SparseConv2d(3, 4, 3, sparsity=0.5, padding=1)
    dense = dense_form(layer)
    small, large = torch.randn(1, 3, 6, 6), torch.randn(2, 3, 8, 8)
    for x in (small, large, small, large, small[0]):
        with torch.no_grad():
            torch.testing.assert_close(layer(x), dense(x))
        torch.testing.assert_close(layer(x), dense(x))
    assert checked == [(1, 3, 6, 6), (2, 3, 8, 8), (3, 6, 6)]
    with pytest.raises(SparsityError, match="x has 5 channels"):
        layer(torch.randn(1, 5, 6, 6))


def test_no_dispatcher_where_no_gradient_is_wanted(monkeypatch):
    class Ops:
        def conv(self, *arguments):
            raise AssertionError("through the dispatcher")

    layer, x = SparseConv2d(3, 4, 3, sparsity=0.5), torch.randn(1, 3, 6, 6)
    monkeypatch.setattr(_conv, "OPS", Ops())
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(layer(x), dense_form(layer)(x))
    with pytest.raises(AssertionError, match="dispatcher"):
        layer(x)
