"""report(): what a training has done, from its own counts."""

import pytest
import torch
from torch import nn

import regrow
from regrow.accounting import LayerReport, Report, metrics_of

N_STEPS = 40


@pytest.fixture
def trained():
    """RigL on noise, and all that a report says, counted from the topologies after each step."""
    model = nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = regrow.rigl(model, optimizer, sparsity=0.7, n_steps=N_STEPS, interval=4, stop_at=1.0)
    names = list(updater.topologies)
    ever = {name: updater.topologies[name].active.clone() for name in names}
    moved = dict.fromkeys(names, 0)
    initial = {name: updater.topologies[name].nnz for name in names}
    for _ in range(N_STEPS):
        before = {name: updater.topologies[name].active.clone() for name in names}
        inputs, labels = torch.randn(16, 12), torch.randint(10, (16,))
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        for name in names:
            active = updater.topologies[name].active
            ever[name] |= active
            moved[name] += int((active & ~before[name]).sum())
    return updater, initial, ever, moved


def test_counts_of_each_layer(trained):
    updater, initial, ever, moved = trained
    report = updater.report()
    assert [layer.name for layer in report.layers] == list(updater.topologies)
    for layer in report.layers:
        topology = updater.topologies[layer.name]
        assert layer.shape == topology.shape
        assert layer.nnz == topology.nnz
        assert layer.initial_nnz == initial[layer.name]
        assert layer.sparsity == topology.sparsity
        assert layer.n_dropped == layer.n_grown == moved[layer.name]
        assert layer.exploration == pytest.approx(float(ever[layer.name].double().mean()))
    assert sum(moved.values()) > 0


def test_counts_of_the_whole(trained):
    updater, _, ever, _ = trained
    report = updater.report()
    assert (report.steps, report.rewirings) == (N_STEPS, 9)
    assert report.weight_steps == N_STEPS - 9  # RigL's rewirings take the place of a weight step
    assert report.nnz == updater.nnz == sum(layer.nnz for layer in report.layers)
    assert report.sparsity == pytest.approx(1 - report.nnz / (360 + 300))
    everything = torch.cat(list(ever.values())).double()
    assert report.exploration == pytest.approx(float(everything.mean()))
    assert report.exploration == pytest.approx(updater.exploration)
    assert report.exploration > 1 - report.sparsity


def test_a_static_topology_reports_no_turnover():
    model = nn.Linear(10, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = regrow.static(model, optimizer, sparsity=0.8)
    (layer,) = updater.report().layers
    assert (layer.n_dropped, layer.n_grown, layer.exploration) == (0, 0, 0.2)


def layer_report(**other):
    """A row of a report, with numbers to be seen in it."""
    row = {
        "name": "fc.weight",
        "shape": (10, 500),
        "nnz": 1000,
        "initial_nnz": 1200,
        "sparsity": 0.8,
        "n_dropped": 70,
        "n_grown": 60,
        "exploration": 0.25,
        "churn": 0.06,
        "survival_age": 80.25,
        "survival_age_median": 120,
        "n_outputs": 10,
        "n_dead_outputs": 1,
        "n_inputs": 500,
        "n_dead_inputs": 33,
        "is_collapsed": False,
        "grad_norm": 0.5,
    }
    return LayerReport(**(row | other))


def whole_report(*layers, **other):
    numbers = {
        "steps": 120,
        "weight_steps": 118,
        "rewirings": 2,
        "nnz": 1000,
        "sparsity": 0.8,
        "exploration": 0.25,
        "churn": 0.06,
        "survival_age": 80.25,
        "survival_age_median": 120,
        "grad_norm": 0.5,
        "grad_norm_step": 100,
    }
    return Report(layers=layers, **(numbers | other))


def test_printed_report():
    assert str(whole_report(layer_report())) == (
        "layer        nnz  at start  sparsity  dropped  grown  explored  shape\n"
        "---------  -----  --------  --------  -------  -----  --------  ------\n"
        "fc.weight  1,000     1,200    0.8000       70     60    0.2500  10x500\n"
        "\n"
        "layer       churn  mean age  median age  dead outputs  dead inputs\n"
        "---------  ------  --------  ----------  ------------  -----------\n"
        "fc.weight  0.0600      80.2         120       1 of 10    33 of 500\n"
        "\n"
        "120 steps (118 moved the weights), 2 rewirings; nnz 1,000, sparsity 0.8000, "
        "exploration 0.2500\n"
        "churn 0.0600, mean age 80.2, median 120 steps; 1 dead outputs, 33 dead inputs\n"
        "gradient norm 0.5 at step 100"
    )


def test_printed_report_without_what_there_is_not():
    unknown = {"churn": None, "survival_age": None, "survival_age_median": None, "grad_norm": None}
    row = layer_report(**unknown, nnz=0, is_collapsed=True)
    text = str(whole_report(row, **unknown, grad_norm_step=None))
    assert "gradient norm" not in text
    assert text.endswith("COLLAPSED: fc.weight has 0 of 1,200 connections left")
    assert "churn -, mean age -, median - steps" in text


def test_a_report_of_a_large_network_is_readable_at_120_columns():
    row = layer_report(
        name="encoder.layers.23.ffn.up_proj.weight",
        shape=(16384, 4096),
        nnz=12_345_678,
        initial_nnz=12_345_678,
        n_dropped=9_876_543,
        n_grown=9_876_543,
        survival_age=123_456.7,
        survival_age_median=123_456,
        n_outputs=16384,
        n_dead_outputs=16000,
        n_inputs=16384,
        n_dead_inputs=16000,
    )
    assert max(map(len, str(whole_report(row, steps=1_000_000)).splitlines())) <= 120


# -- flat numbers ----------------------------------------------------------------------------------


def test_metrics_are_the_report_s_numbers():
    report = whole_report(layer_report(), layer_report(name="b", n_dead_inputs=7), steps=100)
    assert metrics_of(report) == {
        "regrow/nnz": 1000.0,
        "regrow/sparsity": 0.8,
        "regrow/rewirings": 2.0,
        "regrow/exploration": 0.25,
        "regrow/churn": 0.06,
        "regrow/survival_age": 80.25,
        "regrow/survival_age_median": 120.0,
        "regrow/dead_outputs": 2.0,
        "regrow/dead_inputs": 40.0,
        "regrow/collapsed_layers": 0.0,
        "regrow/grad_norm": 0.5,
    }
    every = metrics_of(report, per_layer=True)
    assert metrics_of(report).items() <= every.items()
    assert len(every) == 11 + 2 * 9
    assert every["regrow/layer/b/dead_inputs"] == 7
    assert all(type(value) is float for value in every.values())


def test_what_there_is_not_is_left_out():
    unknown = {"churn": None, "survival_age": None, "survival_age_median": None}
    report = whole_report(layer_report(**unknown), **unknown)  # a norm of step 100, at step 120
    every = metrics_of(report, per_layer=True)
    endings = {name.rpartition("/")[2] for name in every}
    assert not endings & {"churn", "survival_age", "survival_age_median", "grad_norm"}


def test_names_that_loggers_refuse_are_changed_and_stay_apart():
    names = ["a+b.weight", "a b.weight", "a_b.weight", "a/../b", "\u00e9.weight", "ok-0.weight"]
    rows = [layer_report(name=name, nnz=i) for i, name in enumerate(names)]
    every = metrics_of(whole_report(*rows), per_layer=True)
    counts = {name: value for name, value in every.items() if name.endswith("/nnz")}
    assert list(counts) == [
        "regrow/nnz",
        "regrow/layer/a_b.weight/nnz",
        "regrow/layer/a_b.weight-2/nnz",
        "regrow/layer/a_b.weight-3/nnz",
        "regrow/layer/a_.._b/nnz",
        "regrow/layer/_.weight/nnz",
        "regrow/layer/ok-0.weight/nnz",
    ]
    assert list(counts.values())[1:] == list(range(6))
