import copy
import math

import pytest
import torch
from torch import nn

import regrow
from regrow import NM, SparsityError
from regrow.nn import SparseLinear, sparse_form
from regrow.training import BenchReport, BenchRow, HeldBytes, compress_
from regrow.training import _bench as module
from regrow.training._bench_report import LADDER


class Net(nn.Module):
    """A convolution, a large layer, attention, a head, and a layer that is never called."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.wide = nn.Linear(16, 64)
        self.attention = nn.MultiheadAttention(64, 2, batch_first=True)
        self.head = nn.Linear(64, 4)
        self.unused = nn.Linear(8, 8)

    def forward(self, x):
        tokens = self.wide(self.conv(x).relu().flatten(2).transpose(1, 2)).relu()
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


def mlp():
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


X = torch.ones(8, 64)


def fake_times(monkeypatch, seconds):
    """Times as a function of (layers, sparsities): how a machine measures is not the question."""

    def least(steps, *, device, rounds):
        for step in steps:
            step()
        return [seconds(step.layer) for step in steps]

    original = regrow.nn.layer_step

    def step_of(layer, x, *, dead=None):
        def step():
            original(layer, x, dead=dead)()

        step.layer = layer
        return step

    monkeypatch.setattr(regrow.nn, "layer_step", step_of)
    monkeypatch.setattr(regrow.nn, "least_seconds", least)


# -- the rows ------------------------------------------------------------------------------------


def test_every_selected_layer_has_a_row():
    x = torch.randn(2, 3, 4, 4)
    report = regrow.bench(Net(), x, sparsity=0.8, rounds=1, backends=["reference", "torch"])
    rows = {row.name: row for row in report.rows}
    assert list(rows) == [
        "conv.weight", "wide.weight", "attention.in_proj_weight", "attention.out_proj.weight",
        "head.weight", "unused.weight",
    ]  # fmt: skip
    for name in ("conv.weight", "wide.weight", "head.weight"):
        row = rows[name]
        assert list(row.seconds) == ["dense", "masked", "torch", "reference"]
        assert all(seconds > 0 for seconds in row.seconds.values())
        assert row.reason == ""
        assert row.break_even is not None
    assert rows["conv.weight"].input_shape == (2, 3, 4, 4)
    assert rows["wide.weight"].input_shape == (2, 16, 16)
    assert rows["attention.in_proj_weight"].reason == "no truly sparse MultiheadAttention"
    assert rows["unused.weight"].reason == "not called on these inputs"
    assert not rows["unused.weight"].seconds
    assert report.sparsity == pytest.approx(0.8, abs=1e-3)
    assert len(report.measured) == 3


def test_topologies_are_those_of_compress():
    model = mlp()
    report = regrow.bench(model, X, sparsity=0.7, rounds=1, backends=["torch"], seed=3)
    drawn = compress_(mlp(), sparsity=0.7, seed=3)
    assert {row.name: row.nnz for row in report.rows} == {n: t.nnz for n, t in drawn.items()}


def test_the_model_is_left_as_it_was():
    model = Net().train()
    model.attention.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = regrow.rigl(model, optimizer, sparsity=0.5, n_steps=10, interval=2)
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    state, layers = copy.deepcopy(model.state_dict()), list(model.children())
    gradients = {
        name: one.grad.clone() for name, one in model.named_parameters() if "un" not in name
    }
    random = torch.get_rng_state()
    regrow.bench(model, torch.randn(2, 3, 4, 4, generator=torch.Generator()), rounds=1)
    assert torch.equal(torch.get_rng_state(), random)
    assert list(model.children()) == layers
    assert model.training
    assert not model.attention.training
    assert all(torch.equal(one, state[name]) for name, one in model.state_dict().items())
    for name, one in gradients.items():
        assert torch.equal(model.get_parameter(name).grad, one)
    assert updater.steps == 0
    assert not model.wide._forward_pre_hooks


def test_layers_that_are_truly_sparse_already():
    model = mlp()
    compress_(model, sparsity=0.8)
    topology = model[0].topology
    report = regrow.bench(model, X, sparsity=None, rounds=1, backends=["torch"])
    assert isinstance(model[0], SparseLinear)
    assert model[0].topology is topology
    assert report.rows[0].nnz == topology.nnz
    assert report.rows[0].kind == "SparseLinear"
    assert report.rows[0].bytes["dense"].values == 4 * 64 * 128


def test_the_masked_step_masks_by_the_topology(monkeypatch):
    seen = []
    original = regrow.nn.layer_step

    def spy(layer, x, *, dead=None):
        seen.append((type(layer), dead))
        return original(layer, x, dead=dead)

    monkeypatch.setattr(regrow.nn, "layer_step", spy)
    model = nn.Sequential(nn.Linear(64, 16))
    regrow.bench(model, X, sparsity=0.75, rounds=1, backends=["torch"], seed=5)
    topology = compress_(model, sparsity=0.75, seed=5)["0.weight"]
    (_, none), (kind, dead) = seen[:2]
    assert none is None
    assert kind is nn.Linear
    assert torch.equal(dead["weight"], ~topology.mask)


def test_back_ends_that_cannot_run_say_why(monkeypatch):
    def why_not(device, dtype):
        return {"numba": ["numba is not installed"], "torch": ["no MKL"], "reference": []}

    monkeypatch.setattr(regrow.ops, "why_not", why_not)
    report = regrow.bench(mlp(), X, rounds=1)
    row = report.rows[0]
    assert row.reason == "numba: numba is not installed; torch: no MKL"
    assert list(row.seconds) == ["dense", "masked"]
    assert row.backend is row.sparse_seconds is row.break_even is None
    assert set(row.bytes) == {"dense", "masked"}
    assert report.seconds("sparse") == report.seconds("dense")
    report = regrow.bench(mlp(), X, rounds=1, backends=["reference"])
    assert report.rows[0].reason == ""
    assert report.rows[0].backend == "reference"


def test_a_dtype_that_only_the_reference_takes():
    model = mlp().half()
    report = regrow.bench(model, X.half(), rounds=1)
    assert all("torch: " in row.reason for row in report.rows)


# -- bytes ---------------------------------------------------------------------------------------


def test_bytes_are_those_that_are_allocated():
    asks = X.clone().requires_grad_()
    report = regrow.bench(mlp(), asks, sparsity=0.9, rounds=1, backends=["torch"])
    row = report.rows[0]
    dense, masked, sparse = (row.bytes[kind] for kind in ("dense", "masked", "sparse"))
    n = 64 * 128
    assert (dense.values, dense.gradient, dense.indices) == (4 * n, 4 * n, 0)
    assert (dense.momentum, dense.adam) == (4 * n, 8 * n)

    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = regrow.static(model, optimizer, sparsity=0.9)
    held = updater._layers[0]
    flags = [held._dead, held.topology.active, held.lifetimes.ever_active, held.lifetimes.born]
    assert masked.indices == sum(one.nbytes for one in flags)
    assert masked.held == dense.held + masked.indices

    layer = sparse_form(model[0], held.topology)
    layer(X.clone().requires_grad_()).sum().backward()
    tensors = [one for one in layer.layout.pattern(with_columns=True) if torch.is_tensor(one)]
    assert sparse.indices == sum(one.nbytes for one in tensors)
    assert sparse.values == sparse.gradient == sparse.momentum == layer.values.nbytes
    # (A value, its gradient, a column, and its place and row by column, in int32, and row starts.)
    starts = 8 * (128 + 1) + 8 * (64 + 1)
    assert sparse.held + sparse.momentum == 24 * row.nnz + starts
    assert sparse.held + sparse.adam == 28 * row.nnz + starts


def test_a_first_layer_holds_no_column_form():
    first, last = regrow.bench(mlp(), X, sparsity=0.9, rounds=1, backends=["torch"]).rows
    # (A value, its gradient and a column in float32 and int32, and row starts.)
    assert first.bytes["sparse"].held == 12 * first.nnz + 8 * (128 + 1)
    assert last.bytes["sparse"].held == 20 * last.nnz + 8 * (10 + 1) + 8 * (128 + 1)


# -- gradients of inputs, and inference ----------------------------------------------------------


def asked_gradients(monkeypatch):
    """(kind of layer, whether the input's gradient is wanted) of each gradient computed."""
    asked = []
    original = regrow.nn.layer_step

    def spy(layer, x, *, dead=None):
        asked.append((type(layer).__name__, x.shape[-1], x.requires_grad))
        return original(layer, x, dead=dead)

    monkeypatch.setattr(regrow.nn, "layer_step", spy)
    return asked


def test_the_first_layer_is_timed_without_the_gradient_of_its_input(monkeypatch):
    asked = asked_gradients(monkeypatch)
    report = regrow.bench(mlp(), X, rounds=1, backends=["torch"])
    assert {(kind, width, needed) for kind, width, needed in asked} == {
        ("Linear", 64, False), ("SparseLinear", 64, False),
        ("Linear", 128, True), ("SparseLinear", 128, True),
    }  # fmt: skip
    assert [row.input_gradient for row in report.rows] == [False, True]
    first, last = (line for line in str(report).splitlines() if " 8x" in line)
    assert first.endswith("its input needs no gradient")
    assert "gradient" not in last


def test_inference_times_forward_passes_alone(monkeypatch):
    asked = asked_gradients(monkeypatch)
    passes = []
    original = regrow.nn.layer_pass

    def spy(layer, x):
        passes.append(type(layer).__name__)
        return original(layer, x)

    monkeypatch.setattr(regrow.nn, "layer_pass", spy)
    report = regrow.bench(mlp(), X, sparsity=0.9, rounds=1, backends=["torch"], inference=True)
    assert not asked
    assert {"Linear", "SparseLinear"} == set(passes)
    assert report.inference
    for row in report.rows:
        assert list(row.seconds) == ["dense", "torch"]
        assert row.break_even is not None
        assert not row.input_gradient
        n_out, n_in = row.shape
        assert row.bytes["dense"] == HeldBytes(4 * n_out * n_in, 0, 0, 0, 0)
        assert row.bytes["sparse"] == HeldBytes(4 * row.nnz, 0, 4 * row.nnz + 8 * (n_out + 1), 0, 0)
    text = str(report)
    assert text.startswith("forward pass of each layer")
    assert "masked" not in text
    assert "gradient" not in text
    assert "momentum" not in text


def test_inference_with_a_back_end_that_cannot_run(monkeypatch):
    def refuse(layer, x):
        if isinstance(layer, SparseLinear):
            raise regrow.errors.BackendUnavailableError("not this one")
        return original(layer, x)

    original = regrow.nn.layer_pass
    monkeypatch.setattr(regrow.nn, "layer_pass", refuse)
    report = regrow.bench(mlp(), X, rounds=1, backends=["torch"], inference=True)
    assert report.rows[0].reason == "torch: not this one"
    assert report.seconds("sparse") == report.seconds("dense")


# -- break-even ----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [*LADDER, 2.0])
@pytest.mark.parametrize("sparsity", [0.3, 0.9, 0.95, 0.995])
def test_break_even_is_found_in_few_measurements(at, sparsity, monkeypatch):
    measured = []

    def seconds(layer):
        if not isinstance(layer, SparseLinear):
            return 1.0
        measured.append(layer.sparsity)
        # (Whole connections: a sparsity of the ladder is met to some 1e-3.)
        return 0.5 if layer.sparsity > at - 0.003 else 2.0

    fake_times(monkeypatch, seconds)
    report = regrow.bench(
        nn.Sequential(nn.Linear(64, 64)), X, sparsity=sparsity, backends=["torch"], rounds=1
    )
    wanted = at if at <= 0.99 else math.inf
    assert report.rows[0].break_even == wanted
    assert len(measured) <= 1 + 3


def test_no_break_even_where_the_structure_fixes_the_sparsity():
    model = nn.Sequential(nn.Linear(64, 64))
    report = regrow.bench(model, X, sparsity=None, structure=NM(2, 4), backends=["torch"], rounds=1)
    assert report.rows[0].break_even is None
    assert report.rows[0].sparsity == 0.5


def test_break_even_of_even_groups():
    structure = regrow.ConstantFanIn()
    report = regrow.bench(mlp(), X, structure=structure, backends=["torch"], rounds=1)
    assert all(row.break_even is not None for row in report.rows)


# -- printing and arguments ----------------------------------------------------------------------


def row(name, dense, masked, own, *, break_even=0.8, reason=""):
    held = HeldBytes(400, 400, 0, 400, 800)
    seconds = {"dense": dense, "masked": masked, **own} if dense else {}
    kinds = dict.fromkeys(("dense", "masked", "sparse"), held) if dense else {}
    return BenchRow(
        name=name, kind="Linear", shape=(10, 10), input_shape=(4, 10), structure="Unstructured()",
        nnz=10, sparsity=0.9, seconds=seconds, bytes=kinds, break_even=break_even, reason=reason,
    )  # fmt: skip


def test_sums_are_of_measured_layers():
    rows = (
        row("a", 2.0, 2.5, {"numba": 1.0, "torch": 4.0}),
        row("b", 1.0, 1.5, {"torch": 3.0}),
        row("c", None, None, {}, reason="no truly sparse Bilinear"),
    )
    report = BenchReport(rows, 0.9, ("numba", "torch"), "A processor, 1 thread", 5)
    assert report.seconds("dense") == 3.0
    assert report.seconds("masked") == 4.0
    assert report.seconds("numba") == 2.0  # b as dense
    assert report.seconds("torch") == 7.0
    assert report.seconds("sparse") == 4.0
    assert report.seconds("faster") == 2.0


def test_what_is_printed():
    rows = (
        row("a", 2e-3, 2.5e-3, {"numba": 1e-3}),
        row("b", 1e-3, 1.5e-3, {}, break_even=math.inf, reason="numba: not here"),
        row("c", None, None, {}, break_even=None, reason="no truly sparse Bilinear"),
    )
    lines = str(BenchReport(rows, 0.9, ("numba",), "A processor, 1 thread", 5)).splitlines()
    assert "least of 5 rounds" in lines[0]
    assert lines[1] == "A processor, 1 thread"
    assert "no layer was measured" not in lines
    (a, b, c) = [next(line for line in lines if line.startswith(f"{n} ")).split() for n in "abc"]
    assert a == ["a", "10x10", "4x10", "0.9000", "2.000", "2.500", "1.000", "2.00", "0.8"]
    assert b[4:] == ["1.000", "1.500", ">0.99", "numba:", "not", "here"]
    assert c[4:] == ["no", "truly", "sparse", "Bilinear"]
    assert [line.split()[:4] for line in lines if line.startswith("a ")][1] == [
        "a", "10", "800", "B",
    ]  # fmt: skip
    assert any(line.split() == ["dense", "3.000", "ms", "1.00", "x", "dense"] for line in lines)
    assert any(line.split()[:2] == ["faster", "of"] and "1.50 x dense" in line for line in lines)
    assert lines[-1].startswith("1 selected layers were not measured")


def test_a_report_of_nothing():
    report = BenchReport((row("c", None, None, {}),), 0.9, (), "A processor", 1)
    assert str(report).splitlines()[-1] == "no layer was measured"


def test_the_machine_is_named():
    report = regrow.bench(mlp(), X, rounds=1, backends=["torch"])
    assert "1 thread, torch " in report.machine
    assert report.machine.endswith("float32")
    assert module._cpu_name()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"sparsity": 1.5}, ValueError, "sparsity must lie"),
        ({"rounds": 0}, ValueError, "rounds must be at least 1"),
        ({"structure": NM}, TypeError, "structure must be a structure"),
        ({"backends": "numba"}, TypeError, "backends must be a list"),
        ({"backends": []}, ValueError, "backends must name one or more"),
        ({"backends": ["auto"]}, ValueError, "backends must be one of numba, torch, reference"),
        ({"select": "no.*"}, SparsityError, "matches no parameter"),
        ({"sparsity": None}, ValueError, "sparsity"),
    ],
)
def test_refused(arguments, kind, message):
    with pytest.raises(kind, match=message):
        regrow.bench(mlp(), X, **arguments)
