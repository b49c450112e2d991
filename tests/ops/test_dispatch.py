"""Which back end runs, what is said where none can, and what an import loads."""

import os
import subprocess
import sys

import pytest
import torch

from regrow.errors import BackendUnavailableError, SparsityError
from regrow.ops import (
    CSR,
    _numba,
    available_backends,
    product,
    sampled_at,
    sampled_product,
    sparse_linear,
    to_dense,
    use_backend,
    why_not,
)
from regrow.ops import _dispatch as dispatch
from regrow.topology import Topology

LAYOUT = CSR.of(Topology(torch.tensor([0, 3]), (2, 2)))
VALUES, X = torch.tensor([2.0, 3.0]), torch.ones(4, 2)
CPU = torch.device("cpu")


def chosen(**arguments):
    return dispatch.choose(arguments.get("name", "auto"), CPU, torch.float32).name


def test_the_first_that_can_runs(monkeypatch):
    assert chosen() == available_backends("cpu", torch.float32)[0]
    monkeypatch.setattr(_numba, "missing", lambda: "it is not here")
    assert "numba" not in available_backends("cpu", torch.float32)
    assert chosen() == available_backends("cpu", torch.float32)[0]
    assert available_backends("cpu", torch.float16) == ["reference"]
    assert available_backends("cuda", torch.float32) == ["reference"]


def test_a_context_chooses_and_a_name_goes_before_it():
    first = chosen()
    with use_backend("reference"):
        assert chosen() == "reference"
        assert chosen(name=first) == first
        with use_backend("auto"):
            assert chosen() == first
        assert chosen() == "reference"
    assert chosen() == first
    with pytest.raises(RuntimeError, match="from inside"), use_backend("reference"):
        raise RuntimeError("from inside")
    assert chosen() == first


def test_a_call_that_was_checked_lets_no_other_kind_pass():
    layout = CSR.of(Topology(torch.tensor([0, 4, 5]), (2, 3)))
    values, x, bias = torch.ones(3), torch.ones(4, 3), torch.ones(2)
    for _ in range(2):
        assert sparse_linear(values, layout, x, bias=bias).shape == (4, 2)
        with pytest.raises(TypeError, match="x must have one dtype"):
            sparse_linear(values, layout, x.double(), bias=bias)
        with pytest.raises(SparsityError, match="x must have 3 features"):
            sparse_linear(values, layout, torch.ones(4, 2), bias=bias)
        with pytest.raises(SparsityError, match="values must have shape"):
            sparse_linear(torch.ones(2), layout, x, bias=bias)
        with pytest.raises(SparsityError, match="bias must have shape"):
            sparse_linear(values, layout, x, bias=torch.ones(3))
        with pytest.raises(ValueError, match="backend"):
            sparse_linear(values, layout, x, bias=bias, backend="nimba")
        with pytest.raises((TypeError, ValueError), match="backend"):
            sparse_linear(values, layout, x, bias=bias, backend=["numba"])
        assert sparse_linear(values.double(), layout, x.double()).dtype == torch.float64
    for n in range(200):
        assert sparse_linear(values, layout, torch.ones(n, 3)).shape == (n, 2)
    assert len(layout.checked) <= 64


def test_the_backward_pass_runs_where_the_forward_pass_ran(monkeypatch):
    calls = []
    for name in ("sampled_product", "transposed_product"):
        real = getattr(dispatch.REFERENCE, name)
        monkeypatch.setitem(
            dispatch.BY_NAME,
            "reference",
            dispatch.BY_NAME["reference"].__class__(
                **vars(dispatch.BY_NAME["reference"])
                | {name: lambda *a, real=real, name=name: (calls.append(name), real(*a))[1]}
            ),
        )
    values, x = VALUES.clone().requires_grad_(), X.clone().requires_grad_()
    with use_backend("reference"):
        y = sparse_linear(values, LAYOUT, x)
    y.sum().backward()
    assert sorted(calls) == ["sampled_product", "transposed_product"]


def test_all_reasons_are_told(monkeypatch):
    monkeypatch.setattr(_numba, "missing", lambda: "it is not here")
    with pytest.raises(BackendUnavailableError, match=r"numba: it is not here \(these can: \["):
        product(VALUES, LAYOUT, X, backend="numba")
    with pytest.raises(BackendUnavailableError, match="torch: it takes float32 and float64"):
        product(VALUES.half(), LAYOUT, X.half(), backend="torch")
    with pytest.raises(BackendUnavailableError) as error:
        product(VALUES.int(), LAYOUT, X.int())
    assert all(f"{name}: it takes" in str(error.value) for name in ("numba", "torch", "reference"))
    assert why_not("cuda", torch.int32)["numba"] == [
        "it runs on CPUs, the tensors are on cuda",
        "it takes float32, float64 and bfloat16, got torch.int32",
    ]


def test_numba_that_is_absent_or_too_old(monkeypatch):
    class Old:
        __version__ = "0.62.1"

    def absent(name, extra):
        raise BackendUnavailableError(f"install {extra}")

    for found, message in (
        (lambda name, extra: Old, "older than 0.63"),
        (absent, "install sparse"),
    ):
        monkeypatch.setattr(_numba, "require", found)
        assert message in _numba.missing.__wrapped__()


def test_unknown_names():
    with pytest.raises(ValueError, match="backend must be one of auto, numba, torch, reference"):
        product(VALUES, LAYOUT, X, backend="mkl")
    with pytest.raises(ValueError, match="name must be one of"), use_backend("mkl"):
        pass


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: product(VALUES, 3, X), TypeError, "layout must be a CSR, got 3"),
        (lambda: product([2.0], LAYOUT, X), TypeError, "values must be a tensor"),
        (lambda: product(VALUES[:1], LAYOUT, X), SparsityError, r"values must have shape \(2,\)"),
        (lambda: product(VALUES, LAYOUT, X.double()), TypeError, "x must have one dtype"),
        (lambda: product(VALUES, LAYOUT, X[:, :1]), SparsityError, "x must have 2 features"),
        (lambda: product(VALUES, LAYOUT, X[0, 0]), SparsityError, "x must have 2 features"),
        (lambda: product(VALUES, LAYOUT, X.to("meta")), SparsityError, "x must be on cpu"),
        (lambda: product(VALUES.to("meta"), LAYOUT, X), SparsityError, "values are on meta"),
        (
            lambda: sparse_linear(VALUES, LAYOUT, X, bias=torch.ones(3)),
            SparsityError,
            r"bias must have shape \(2,\)",
        ),
        (lambda: sampled_product(LAYOUT, X[:2], X), SparsityError, "the same leading sizes"),
        (
            lambda: sampled_at(torch.tensor([2]), torch.tensor([0]), X, X),
            SparsityError,
            r"rows must lie in \[0, 2\)",
        ),
        (
            lambda: sampled_at(torch.tensor([0]), torch.tensor([-1]), X, X),
            SparsityError,
            r"columns must lie in \[0, 2\)",
        ),
        (
            lambda: sampled_at(torch.tensor([0.0]), torch.tensor([0]), X, X),
            TypeError,
            "rows must be one-dimensional",
        ),
        (
            lambda: sampled_at(torch.tensor([0, 1]), torch.tensor([0]), X, X),
            SparsityError,
            "equally many",
        ),
        (lambda: to_dense(VALUES[:1], LAYOUT), SparsityError, "values must have shape"),
    ],
)
def test_bad_inputs(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_numba_is_imported_on_first_use():
    code = (
        "import sys, torch, regrow.ops as ops, regrow;"
        "assert 'numba' not in sys.modules and 'llvmlite' not in sys.modules;"
        "t = regrow.Topology(torch.tensor([0]), (2, 2));"
        "y = ops.product(torch.ones(1), ops.CSR.of(t), torch.ones(1, 2), backend='reference');"
        "assert 'numba' not in sys.modules; print(y.tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "[[1.0, 0.0]]"
