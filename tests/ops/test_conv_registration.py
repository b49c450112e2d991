"""What PyTorch knows of sparse convolutions: schema, shapes, gradients of any order, FLOPs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from regrow.ops import CSR, available_backends, sparse_conv
from regrow.topology import Topology

OPS = torch.ops.regrow
BACKENDS = available_backends("cpu", torch.float64)
CASES = [
    ((2, 3, 4, 3), (3, 2), [1, 1], [1, 0], [1, 1], 1),
    ((2, 4, 4, 4), (3, 2), [2, 1], [1, 2], [1, 2], 2),
    ((2, 2, 6), (3,), [2], [1], [1], 1),
    ((1, 2, 2, 3, 2), (2, 2, 2), [1, 2, 1], [0, 1, 1], [1, 1, 1], 1),
]


def case(size, kernel, groups):
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(4, size[1] // groups, *kernel, generator=generator) > 0.6
    mask[2] = False
    layout = CSR.of(Topology.from_mask(mask.flatten(1)))

    def leaf(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    return layout, leaf(layout.nnz), leaf(*size), leaf(4)


def inputs(which, name):
    size, kernel, stride, padding, dilation, groups = which
    layout, values, x, bias = case(size, kernel, groups)
    sizes = (list(kernel), stride, padding, dilation, groups, name)
    return values, x, bias, (layout.row_ptr, layout.columns), sizes


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # opcheck's own
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("which", CASES[:2])
def test_opcheck(name, which):
    values, x, bias, layout, sizes = inputs(which, name)
    dy = torch.randn_like(OPS.conv(values, x, None, *layout, *sizes)).requires_grad_()
    strided = x.transpose(-1, -2).contiguous().transpose(-1, -2).detach().requires_grad_()
    for op, given in (
        (OPS.conv, (values, x, bias, *layout)),
        (OPS.conv, (values, strided, None, *layout)),
        (OPS.conv_input_gradient, (values, dy, *layout, list(x.shape))),
        (OPS.conv_value_gradient, (dy, x, *layout)),
    ):
        torch.library.opcheck(op.default, (*given, *sizes))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("which", CASES)
def test_gradients(name, which):
    size, kernel, stride, padding, dilation, groups = which
    layout, values, x, bias = case(size, kernel, groups)
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}

    def function(v, a, b):
        return sparse_conv(v, layout, a, kernel_size=kernel, bias=b, backend=name, **how)

    assert torch.autograd.gradcheck(function, (values, x, bias))
    assert torch.autograd.gradgradcheck(function, (values, x, bias), fast_mode=True)


@pytest.mark.parametrize("name", BACKENDS)
def test_gradients_of_the_gradients(name):
    values, x, _, layout, sizes = inputs(CASES[1], name)
    dy = torch.randn_like(OPS.conv(values, x, None, *layout, *sizes)).requires_grad_()
    for function, given in (
        (lambda v, d: OPS.conv_input_gradient(v, d, *layout, x.shape, *sizes), (values, dy)),
        (lambda d, a: OPS.conv_value_gradient(d, a, *layout, *sizes), (dy, x)),
    ):
        assert torch.autograd.gradcheck(function, given)


@pytest.mark.parametrize("name", BACKENDS)
def test_only_what_needs_a_gradient_gets_one(name):
    layout, values, x, bias = case((3, 4, 5, 6), (3, 3), 1)
    for chosen in ({0}, {1}, {2}, {0, 1}, {0, 2}):
        leaves = [
            leaf.detach().requires_grad_(i in chosen) for i, leaf in enumerate((values, x, bias))
        ]
        y = sparse_conv(
            leaves[0], layout, leaves[1], kernel_size=(3, 3), bias=leaves[2], backend=name
        )
        y.sum().backward()
        assert {i for i, leaf in enumerate(leaves) if leaf.grad is not None} == chosen


@pytest.mark.parametrize("name", BACKENDS)
def test_flops_are_two_for_each_connection_sample_and_pixel(name):
    layout, values, x, _ = case((3, 4, 5, 6), (3, 3), 1)
    with FlopCounterMode(display=False) as counter:
        y = sparse_conv(values, layout, x, kernel_size=(3, 3), stride=2, backend=name)
    assert counter.get_total_flops() == 2 * layout.nnz * 3 * (2 * 2)
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 4 * layout.nnz * 3 * (2 * 2)


@pytest.mark.parametrize("name", BACKENDS)
def test_one_graph_compiles(name):
    layout, values, x, bias = case((3, 4, 5, 6), (3, 3), 1)

    def function(v, a, b):
        y = sparse_conv(v, layout, a.relu(), kernel_size=(3, 3), bias=b, padding=1, backend=name)
        return y.sin()

    expected = function(values, x, bias)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    found = compiled(values, x, bias)
    torch.testing.assert_close(found, expected)
    for some, other in zip(
        torch.autograd.grad(found.sum(), (values, x, bias)),
        torch.autograd.grad(expected.sum(), (values, x, bias)),
        strict=True,
    ):
        torch.testing.assert_close(some, other)
