"""Layouts, their column form, and values that follow a topology."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regrow.errors import SparsityError
from regrow.ops import CSR, _numba, carry_values, to_dense
from regrow.topology import NM, Topology


def mask_of(shape, sparsity, seed):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) >= sparsity


shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))


@given(shape=shapes, sparsity=st.floats(0, 1), seed=st.integers(0, 1000))
def test_a_layout_is_its_topology(shape, sparsity, seed):
    topology = Topology.from_mask(mask_of(shape, sparsity, seed))
    layout = CSR.of(topology)
    assert layout.shape == shape
    assert layout.nnz == topology.nnz
    assert torch.equal(layout.positions, topology.indices)
    assert layout.row_ptr.dtype == torch.int64
    assert layout.columns.dtype == torch.int32
    assert torch.equal(layout.row_ptr.diff(), topology.mask.sum(1))
    CSR(layout.row_ptr, layout.columns, shape)


def test_structures_have_layouts():
    topology = Topology.from_mask(torch.tensor([[True, False, True, False]]), structure=NM(1, 2))
    assert CSR.of(topology).columns.tolist() == [0, 2]


@pytest.mark.parametrize("numba", [True, False])
@given(shape=shapes, sparsity=st.floats(0, 1), seed=st.integers(0, 1000))
def test_column_form(numba, shape, sparsity, seed):
    if numba and _numba.missing():
        pytest.skip(_numba.missing())
    mask = mask_of(shape, sparsity, seed)
    layout = CSR.of(Topology.from_mask(mask))
    with pytest.MonkeyPatch.context() as patch:
        if not numba:
            patch.setattr(_numba, "missing", lambda: "not here")
        form = layout.column_form
    assert form is layout.column_form
    assert [tensor.dtype for tensor in form] == [torch.int64, torch.int32, torch.int32]
    columns, rows = mask.t().nonzero().unbind(1)
    assert form.rows.tolist() == rows.tolist()
    assert form.col_ptr.diff().tolist() == mask.sum(0).tolist()
    assert layout.positions[form.order.long()].tolist() == (rows * shape[1] + columns).tolist()


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool]
)
@given(shape=shapes, sparsities=st.tuples(*[st.floats(0, 1)] * 2), seed=st.integers(0, 1000))
def test_values_follow_their_connections(numba, dtype, shape, sparsities, seed):
    if numba and _numba.missing():
        pytest.skip(_numba.missing())
    before, after = (mask_of(shape, s, seed + i) for i, s in enumerate(sparsities))
    old, new = (CSR.of(Topology.from_mask(mask)) for mask in (before, after))
    values = torch.arange(2, old.nnz + 2).to(dtype)
    with pytest.MonkeyPatch.context() as patch:
        if not numba:
            patch.setattr(_numba, "missing", lambda: "not here")
        carried = carry_values(old, values, new, fill=1)
    assert carried.dtype == dtype
    expected = torch.where(before, to_dense(values, old), torch.ones((), dtype=dtype))[after]
    assert torch.equal(carried, expected)


def test_the_fallback_looks_up_in_pieces(monkeypatch):
    monkeypatch.setattr(_numba, "missing", lambda: "not here")
    monkeypatch.setattr("regrow.ops._carry.AT_ONCE", 3)
    old, new = (CSR.of(Topology.from_mask(mask_of((6, 7), 0.5, seed))) for seed in (1, 2))
    values = torch.arange(1.0, old.nnz + 1)
    expected = to_dense(values, old)[to_dense(torch.ones(new.nnz), new) > 0]
    assert torch.equal(carry_values(old, values, new), expected)


LAYOUT = CSR.of(Topology(torch.tensor([0, 3]), (2, 2)))


@pytest.mark.parametrize(
    ("row_ptr", "columns", "shape", "message"),
    [
        ([0, 1], [0], (2, 2), "row_ptr must have shape"),
        ([1, 1, 1], [0], (2, 2), "row_ptr must rise from 0"),
        ([0, 1, 2], [0], (2, 2), "row_ptr must rise from 0"),
        ([0, 2, 1], [0], (2, 2), "row_ptr must rise from 0"),
        ([0, 1, 2], [0, 2], (2, 2), r"columns must lie in \[0, 2\)"),
        ([0, 1, 2], [-1, 0], (2, 2), r"columns must lie in \[0, 2\)"),
        ([0, 2, 2], [1, 0], (2, 2), "columns must ascend"),
        ([0, 2, 2], [1, 1], (2, 2), "columns must ascend"),
        ([0, 1, 2], [0, 1], (2, 2, 1), "two dimensions"),
        ([0, 0], [], (1, 2**31), "at most 2147483647"),
    ],
)
def test_what_is_no_layout(row_ptr, columns, shape, message):
    with pytest.raises(SparsityError, match=message):
        CSR(torch.tensor(row_ptr), torch.tensor(columns, dtype=torch.int32), shape)


def test_wrong_types():
    with pytest.raises(TypeError, match=r"columns must be a tensor of .*int32, got .*int64"):
        CSR(torch.tensor([0, 1]), torch.tensor([0]), (1, 1))
    with pytest.raises(TypeError, match="topology must be a Topology, got 3"):
        CSR.of(3)
    assert CSR.of(Topology.full((2, 2, 2))).shape == (2, 4)
    with pytest.raises(SparsityError, match=r"one shape, got \(2, 2\) and \(1, 4\)"):
        carry_values(LAYOUT, torch.ones(2), CSR.of(Topology.full((1, 4))))
    with pytest.raises(SparsityError, match=r"values must have shape \(2,\)"):
        carry_values(LAYOUT, torch.ones(3), LAYOUT)


def test_to_the_same_device_is_the_same_layout():
    assert LAYOUT.to("cpu") is LAYOUT
    assert LAYOUT.to("meta").columns.device.type == "meta"
    assert repr(LAYOUT) == "CSR(shape=(2, 2), nnz=2)"
