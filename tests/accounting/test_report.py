"""report(): what a training has done, from its own counts."""

import pytest
import torch
from torch import nn

import regrow
from regrow.accounting import LayerReport, Report

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


def test_printed_report():
    layer = LayerReport("fc.weight", (10, 500), 1000, 1200, 0.8, 70, 60, 0.25)
    text = str(Report((layer,), 120, 118, 2, 1000, 0.8, 0.25))
    assert text == (
        "layer        nnz  at start  sparsity  dropped  grown  explored  shape\n"
        "---------  -----  --------  --------  -------  -----  --------  ------\n"
        "fc.weight  1,000     1,200    0.8000       70     60    0.2500  10x500\n"
        "\n"
        "120 steps (118 moved the weights), 2 rewirings; nnz 1,000, sparsity 0.8000, "
        "exploration 0.2500"
    )
