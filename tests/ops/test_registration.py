"""What PyTorch knows of the operations: schema, shapes, gradients of any order, FLOPs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from regrow.ops import (
    CSR,
    available_backends,
    product,
    sampled_product,
    sparse_linear,
    transposed_product,
)
from regrow.topology import Topology

OPS = torch.ops.regrow
BACKENDS = available_backends("cpu", torch.float64)


def case(batch=3, *, n_out=5, n_in=4):
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(n_out, n_in, generator=generator) > 0.4
    mask[2] = False
    layout = CSR.of(Topology.from_mask(mask))

    def leaf(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    return layout, leaf(layout.nnz), leaf(batch, n_in), leaf(batch, n_out), leaf(n_out)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # opcheck's own
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_opcheck(name, batch):
    layout, values, x, dy, bias = case(batch)
    for with_columns in (True, False):
        row_ptr, columns, *form, n_in = CSR(layout.row_ptr, layout.columns, layout.shape).pattern(
            with_columns=with_columns
        )
        for op, inputs in (
            (OPS.product, (values, x, bias, row_ptr, columns, *form, name)),
            (OPS.product, (values, x, None, row_ptr, columns, *form, name)),
            (OPS.transposed_product, (values, dy, row_ptr, columns, *form, n_in, name)),
            (OPS.sampled_product, (dy, x, row_ptr, columns, *form, name)),
        ):
            torch.library.opcheck(op.default, inputs)
        for wanted in ((True, True), (True, False), (False, True)):
            given = [tensor.detach() for tensor in (values, dy, x)]
            for some in (given[2], given[2].t().contiguous().t()):
                inputs = (*given[:2], some, row_ptr, columns, *form, *wanted, name)
                torch.library.opcheck(OPS.gradients.default, inputs)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("batch", [1, 4, 5])
def test_gradients(name, batch):
    layout, values, x, dy, bias = case(batch)
    for function, inputs in (
        (lambda v, a, b: sparse_linear(v, layout, a, bias=b, backend=name), (values, x, bias)),
        (lambda v, a: product(v, layout, a.t().contiguous().t(), backend=name), (values, x)),
        (lambda v, a: transposed_product(v, layout, a, backend=name), (values, dy)),
        (lambda a, b: sampled_product(layout, a, b, backend=name), (dy, x)),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("name", BACKENDS)
def test_only_what_needs_a_gradient_gets_one(name):
    layout, values, x, dy, bias = case()
    for chosen in ({0}, {1}, {2}, {0, 1}, {0, 2}):
        leaves = [
            leaf.detach().requires_grad_(i in chosen) for i, leaf in enumerate((values, x, bias))
        ]
        y = sparse_linear(leaves[0], layout, leaves[1], bias=leaves[2], backend=name)
        y.backward(dy.detach())
        assert {i for i, leaf in enumerate(leaves) if leaf.grad is not None} == chosen


@pytest.mark.parametrize("name", BACKENDS)
def test_flops_are_two_for_each_connection_and_sample(name):
    layout, values, x, dy, _ = case()
    with FlopCounterMode(display=False) as counter:
        y = sparse_linear(values, layout, x, backend=name)
    assert counter.get_total_flops() == 2 * layout.nnz * 3
    with FlopCounterMode(display=False) as counter:
        y.backward(dy.detach())
    assert counter.get_total_flops() == 4 * layout.nnz * 3


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("batch", [3, 16])
def test_shapes_without_numbers(name, batch):
    layout, values, x, _, bias = case(batch)
    there = CSR.to(layout, "meta")
    on_meta = [tensor.detach().to("meta") for tensor in (values, x, bias)]
    real = OPS.product(values, x, bias, *layout.pattern(with_columns=True)[:-1], name)
    fake = OPS.product(*on_meta, *there.pattern(with_columns=False)[:-1], name)
    assert fake.shape == real.shape
    assert fake.stride() == real.stride()
