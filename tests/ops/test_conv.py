"""Sparse convolutions on every back end against float64 convolutions of PyTorch."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from regrow.ops import CSR, available_backends, sparse_conv, why_not
from regrow.ops._dispatch import BY_NAME
from regrow.topology import Topology

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
RUNS = [(name, dtype) for dtype in DTYPES for name in available_backends("cpu", dtype)]
FAST = [run for run in RUNS if run[0] == "numba"]
DENSE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def random(*shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def weight_of(shape, sparsity, *, seed=0, empty=True):
    """A mask with an empty row where it has room for it, its layout, and the dense shape."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) >= sparsity
    if empty and shape[0] > 2:
        mask[1] = False
    return mask, CSR.of(Topology.from_mask(mask.flatten(1)))


def assert_close(found, expected, name, dtype):
    found, expected = found.detach(), expected.detach()
    assert found.dtype == dtype
    assert found.shape == expected.shape
    relative, absolute = BY_NAME[name].tolerances[dtype]
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found.double(), expected, rtol=relative, atol=absolute * scale)


def check(
    name,
    dtype,
    *,
    size=(3, 4, 7, 6),
    n_out=6,
    kernel=(3, 3),
    sparsity=0.6,
    arrange=lambda tensor: tensor,
    seed=0,
    **how,
):
    """Forward and all gradients of one case."""
    n_taps = len(kernel)
    n_in = size[-1 - n_taps]
    mask, layout = weight_of(
        (n_out, n_in // how.get("groups", 1), *kernel), sparsity, seed=seed, empty=n_out > 2
    )
    values = random(layout.nnz, dtype=dtype, seed=seed + 1).requires_grad_()
    bias = random(n_out, dtype=dtype, seed=seed + 2).requires_grad_()
    x = arrange(random(*size, dtype=dtype, seed=seed + 3)).requires_grad_()
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, bias)]
    w = torch.zeros(mask.shape, dtype=torch.float64)
    w[mask] = values.detach().double()
    w.requires_grad_()
    expected = DENSE[n_taps](exact[0], w, exact[1], **how)
    dy = arrange(random(*expected.shape, dtype=dtype, seed=seed + 4))
    expected.backward(dy.double())

    y = sparse_conv(values, layout, x, kernel_size=kernel, bias=bias, backend=name, **how)
    assert y.is_contiguous()
    y.backward(dy)
    assert_close(y, expected, name, dtype)
    assert_close(x.grad, exact[0].grad, name, dtype)
    assert_close(values.grad, w.grad[mask], name, dtype)
    assert_close(bias.grad, exact[1].grad, name, dtype)


@pytest.mark.parametrize(("name", "dtype"), RUNS)
@pytest.mark.parametrize("batch", [0, 1, 3, 17, 128, 130])
def test_batches(name, dtype, batch):
    check(name, dtype, size=(batch, 4, 7, 6), padding=1)


@pytest.mark.parametrize(("name", "dtype"), RUNS)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("batch", [2, 19])
def test_steps_between_pixels(name, dtype, stride, batch):
    for kernel, padding, dilation in itertools.product(((1, 1), (3, 2)), (0, 2), (1, 2)):
        size = (batch, 3, 8, 9)
        check(
            name, dtype, size=size, kernel=kernel, stride=stride, padding=padding, dilation=dilation
        )


@pytest.mark.parametrize(("name", "dtype"), RUNS)
@pytest.mark.parametrize("batch", [2, 16])
@pytest.mark.parametrize(
    ("spatial", "kernel", "how"),
    [
        ((50,), (3,), {}),
        ((33,), (5,), {"stride": 2, "padding": 4, "dilation": 2}),
        ((7, 11), (2, 3), {"stride": (1, 2), "padding": (0, 1), "dilation": (2, 1)}),
        ((7, 11), (7, 11), {}),
        ((2, 3), (3, 3), {"padding": 4}),
        ((1, 1), (1, 1), {}),
        ((16, 16), (3, 3), {"padding": 1}),
        ((16, 32), (3, 3), {"stride": 2, "padding": 1}),
        ((14, 14), (3, 3), {"padding": 1}),
        ((20, 64), (3, 3), {"padding": 1}),
        ((4, 5, 6), (2, 3, 3), {"padding": 1}),
        ((5, 6, 7), (3, 2, 3), {"stride": (2, 1, 3), "padding": (1, 0, 2), "dilation": (1, 2, 1)}),
        ((5, 6, 7), (1, 1, 1), {"stride": 2}),
    ],
)
def test_dimensions(name, dtype, batch, spatial, kernel, how):
    check(name, dtype, size=(batch, 4, *spatial), kernel=kernel, **how)


@pytest.mark.parametrize(("name", "dtype"), RUNS)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("batch", [2, 17])
def test_groups(name, dtype, groups, batch):
    for stride in (1, 2):
        check(name, dtype, size=(batch, 4, 7, 6), n_out=8, groups=groups, stride=stride, padding=1)


@pytest.mark.parametrize(("name", "dtype"), RUNS)
@pytest.mark.parametrize("sparsity", [0.0, 0.95, 1.0])
def test_sparsities(name, dtype, sparsity):
    check(name, dtype, size=(17, 4, 7, 6), sparsity=sparsity, padding=1)
    check(name, dtype, size=(3, 1, 7, 6), n_out=1, sparsity=sparsity, padding=1)


@pytest.mark.parametrize(("name", "dtype"), RUNS)
def test_one_sample_without_batch(name, dtype):
    for size, kernel in (((4, 9), (3,)), ((4, 7, 6), (3, 3)), ((2, 3, 4, 5), (2, 2, 2))):
        check(name, dtype, size=size, kernel=kernel, padding=1)


ARRANGEMENTS = {
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "batch innermost": lambda t: t.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "every second channel": lambda t: torch.stack([t, t], 2).flatten(1, 2)[:, ::2],
    "every second pixel": lambda t: torch.stack([t, t], 4).flatten(3)[..., ::2],
    "one sample expanded": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.parametrize(("name", "dtype"), RUNS)
@pytest.mark.parametrize("how", ARRANGEMENTS)
def test_strides(name, dtype, how):
    check(name, dtype, size=(18, 4, 7, 6), padding=1, arrange=ARRANGEMENTS[how])


@pytest.fixture
def new_plans():
    from regrow.ops import _conv_numba

    _conv_numba._plan.cache_clear()
    yield
    _conv_numba._plan.cache_clear()


@pytest.mark.usefixtures("new_plans")
@pytest.mark.parametrize(("name", "dtype"), FAST)
def test_channels_are_done_in_blocks(monkeypatch, name, dtype):
    from regrow.ops import _conv_plan

    monkeypatch.setattr(_conv_plan, "NEAR_BYTES", 20_000)
    for groups, stride in itertools.product((1, 2), (1, 2)):
        for batch in (2, 16):
            size = (batch, 14, 9, 9)
            check(name, dtype, size=size, groups=groups, n_out=10, padding=1, stride=stride)


@pytest.mark.usefixtures("new_plans")
@pytest.mark.parametrize(("name", "dtype"), FAST)
def test_lines_are_done_in_blocks(monkeypatch, name, dtype):
    from regrow.ops import _conv_plan

    monkeypatch.setattr(_conv_plan, "SCRATCH_BYTES", 30_000)
    for stride, padding, batch in itertools.product((1, 2, 3), (0, 1, 3), (2, 16)):
        check(name, dtype, size=(batch, 4, 17, 9), padding=padding, stride=stride)
        size = (batch, 4, 9, 5, 3)
        check(name, dtype, size=size, kernel=(3, 3, 3), padding=max(1, padding), stride=stride)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unfolded_inputs_are_done_in_parts(monkeypatch, dtype):
    from regrow.ops import _conv_unfold

    monkeypatch.setattr(_conv_unfold, "AT_ONCE", 5000)
    for name in set(available_backends("cpu", dtype)) - {"numba"}:
        check(name, dtype, size=(9, 4, 7, 6), padding=1)


@given(
    run=st.sampled_from(RUNS),
    batch=st.integers(0, 40),
    spatial=st.lists(st.integers(4, 18), min_size=2, max_size=2),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    dilation=st.integers(1, 3),
    groups=st.sampled_from((1, 1, 2)),
    sparsity=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_any_case(run, batch, spatial, kernel, stride, padding, dilation, groups, sparsity, seed):
    spatial = [max(n, dilation * (k - 1) + 1) for n, k in zip(spatial, kernel, strict=True)]
    size = (batch, 4, *spatial)
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    check(*run, size=size, kernel=kernel, sparsity=sparsity, seed=seed, **how)


def test_numbers_by_hand():
    layout = CSR.of(Topology.from_mask(torch.tensor([[True, False, True, True, False, False]])))
    x = torch.tensor([[[1.0, 2.0, 5.0, 7.0], [10.0, 20.0, 30.0, 40.0]]])
    for name in available_backends("cpu", torch.float32):
        values = torch.tensor([2.0, 3.0, 0.5], requires_grad=True)
        y = sparse_conv(values, layout, x, kernel_size=(3,), backend=name)
        assert y.tolist() == [[[22.0, 35.0]]]
        y.backward(torch.tensor([[[1.0, 10.0]]]))
        assert values.grad.tolist() == [21.0, 75.0, 210.0]


@pytest.mark.parametrize("name", available_backends("cpu", torch.float32))
@pytest.mark.parametrize("batch", [2, 16])
def test_infinities_and_nan_stay_where_they_are(name, batch):
    layout = CSR.of(Topology.from_mask(torch.tensor([[True, False, False]])))
    values = torch.ones(1, requires_grad=True)
    x = torch.ones(batch, 1, 9)
    x[0, 0, 4], x[1, 0, 8] = float("nan"), float("inf")
    x.requires_grad_()
    y = sparse_conv(values, layout, x, kernel_size=(3,), padding=1, backend=name)
    # Tap 0 of output i reads pixel i - 1: the last pixel is read by none.
    assert y.isnan().nonzero().tolist() == [[0, 0, 5]]
    assert not y.isinf().any()
    y.nan_to_num().sum().backward()
    assert values.grad.isnan().all()
    values.grad = None
    sparse_conv(values, layout, x[1:], kernel_size=(3,), padding=1, backend=name).sum().backward()
    assert values.grad.tolist() == [8.0 * (batch - 1)]


def test_every_back_end_convolves_or_says_why_not():
    from regrow.ops._conv_register import BACKENDS

    assert list(why_not("cpu", torch.float32)) == list(BACKENDS)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kernel_size": 3}, TypeError, "kernel_size must be a sequence"),
        ({"kernel_size": (1, 1, 1, 1)}, ValueError, "kernel_size must have 1, 2 or 3 sizes"),
        ({"kernel_size": (3, 0)}, ValueError, "kernel_size must be at least 1, got 0"),
        ({"kernel_size": (3,)}, ValueError, "x must have 2 or 3 dimensions"),
        ({"kernel_size": (3, 2)}, ValueError, "needs a layout of 24 columns; it has 36"),
        ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
        ({"stride": (1, 1, 1)}, ValueError, "stride must be one number, or 2 as kernel_size"),
        ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
        ({"padding": "same"}, TypeError, "padding must be an integer"),
        ({"dilation": 1.5}, TypeError, "dilation must be an integer"),
        ({"dilation": 9}, ValueError, "too small for kernel_size"),
        ({"groups": 4}, ValueError, "groups must divide n_out, 6; got 4"),
        ({"groups": 3}, ValueError, "groups must divide n_in, 4; got 3"),
        ({"groups": 2}, ValueError, "groups=2 and 9 taps needs a layout of 18 columns"),
        ({"bias": torch.zeros(5)}, ValueError, r"bias must have shape \(6,\), got \(5,\)"),
        ({"bias": torch.zeros(6).double()}, TypeError, "bias must have one dtype"),
        ({"x": torch.zeros(1, 3, 7, 6)}, ValueError, "x has 3 channels"),
        ({"x": torch.zeros(4, 7)}, ValueError, "x must have 3 or 4 dimensions"),
        ({"x": torch.zeros(1, 4, 7, 6).double()}, TypeError, "x must have one dtype"),
        ({"x": None}, TypeError, "x must be a tensor"),
        ({"values": torch.zeros(2)}, ValueError, "values must have shape"),
        ({"layout": None}, TypeError, "layout must be a CSR"),
        ({"backend": "cuda"}, ValueError, "backend"),
    ],
)
def test_errors_say_what_would_be_right(change, error, message):
    _, layout = weight_of((6, 4, 3, 3), 0.5)
    given = {"values": torch.zeros(layout.nnz), "layout": layout, "x": torch.zeros(1, 4, 7, 6)}
    with pytest.raises(error, match=message):
        sparse_conv(**{**given, "kernel_size": (3, 3)} | change)
