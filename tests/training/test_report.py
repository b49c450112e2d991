"""Plan, report and training FLOPs of an updater."""

from typing import Any

import pytest
import torch
from tiny_cases import METHODS, OPTIMIZERS, batches, masks_of, step, tiny_net
from torch import nn

import regrow

# Multiply and add counted as two, 4 x 4 places of the convolution.
DENSE = {
    "conv.weight": 2 * 216 * 16,
    "fc.weight": 2 * 128 * 16,
    "mid.weight": 2 * 16 * 16,
    "head.weight": 2 * 16 * 4,
}
SIZES = {"conv.weight": 216, "fc.weight": 2048, "mid.weight": 256, "head.weight": 64}


def forward(masks: dict[str, torch.Tensor], n: int) -> float:
    """FLOPs of one forward pass on ``n`` images, from the live connections."""
    return n * sum(DENSE[k] * int(m.sum()) / SIZES[k] for k, m in masks.items())


@pytest.mark.parametrize("method", list(METHODS))
def test_training_flops_are_those_of_appendix_h(method: str) -> None:
    """3 f_S a step; where a rewiring reads the dense gradient, 2 f_S + f_D."""
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = METHODS[method](net, optimizer, seed=5)
    example = torch.randn(2, 3, 6, 6)
    dense = 2 * sum(DENSE.values())
    reads = method in {"rigl", "mest-gradient", "granet-gradient"}
    want = 0.0
    assert updater.training_flops(example) == 0
    for batch in batches(30):
        before, rewirings = masks_of(updater), updater.rewirings
        step(net, optimizer, batch)
        want += 3 * forward(before, 2)
        if reads and updater.rewirings > rewirings:
            want += dense - forward(before, 2)
        assert abs(updater.training_flops(example) - want) <= 1
    weights = [p.detach().clone() for p in net.parameters()]
    updater.training_flops((example,))
    assert all(torch.equal(p, w) for p, w in zip(net.parameters(), weights, strict=True))
    assert updater.steps == 30, "counting is no step"


def test_plan_and_report_count_what_is_there() -> None:
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = METHODS["rigl"](net, optimizer, seed=5)
    for batch in batches(10):
        step(net, optimizer, batch)
    report = updater.report()
    assert report.nnz == updater.nnz == sum(t.nnz for t in updater.topologies.values())
    assert report.sparsity == updater.sparsity
    assert (report.steps, report.weight_steps, report.rewirings) == (10, 8, 2)
    for row, (name, topology) in zip(report.layers, updater.topologies.items(), strict=True):
        assert (row.name, row.shape, row.nnz) == (name, topology.shape, topology.nnz)
        assert row.initial_nnz == topology.nnz
        assert row.n_dropped == row.n_grown
    assert str(report).count("\n") >= 4

    plan = str(updater.plan(torch.randn(1, 3, 6, 6)))
    for name, topology in updater.topologies.items():
        line = next(one for one in plan.splitlines() if one.startswith(name))
        assert f"{topology.nnz:,}" in line or str(topology.nnz) in line
    assert "5 rewirings planned: every 4 steps, first at step 4, last at step 20" in plan
    assert "its share under erdos_renyi_kernel() reaches all its connections" in plan


@pytest.mark.parametrize("training", [True, False])
def test_a_plan_leaves_the_model_as_it_was(training: bool) -> None:
    """Running statistics, mode, gradients, generator: an example batch is not trained on."""
    net: Any = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    net.train(training)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    updater = regrow.rigl(net, optimizer, sparsity=0.5, n_steps=20, interval=3)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.random.get_rng_state()
    updater.plan(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)))
    updater.training_flops(torch.zeros(4, 6))
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert all(module.training == training for module in net.modules())
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(state, torch.random.get_rng_state())
    assert updater.steps == 0
