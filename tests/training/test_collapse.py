"""Layers that are all but emptied: one warning, and a word in the report."""

import re
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import regrow
from regrow.errors import LayerCollapseWarning

Updater = regrow.TopologyUpdater


def pruned_to_nothing(small: float, **other: Any) -> tuple[nn.Module, Any, Updater]:
    """Gradual pruning by one ranking, of two layers whose weights differ by ``small``."""
    net = nn.Sequential(nn.Linear(20, 40), nn.Linear(40, 20))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[1].weight.fill_(small)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)
    updater = regrow.gradual(net, optimizer, sparsity=0.6, n_steps=40, interval=2, **other)
    return net, optimizer, updater


def run(
    net: nn.Module, optimizer: Any, n: int, *, action: Any = "always"
) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)
        for _ in range(n):
            net(torch.randn(4, 20)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    return caught


def test_an_emptied_layer_is_warned_of_once_and_is_in_the_report() -> None:
    net, optimizer, updater = pruned_to_nothing(1e-3)
    caught = run(net, optimizer, 40)
    assert [w.category for w in caught] == [LayerCollapseWarning]
    message = str(caught[0].message)
    assert "1.weight has 1 of 800 connections left" in message  # (rankings leave one unit)
    report = updater.report()
    assert report.collapsed == ("1.weight",)
    assert "COLLAPSED: 1.weight has 1 of 800 connections left" in str(report)
    assert updater.metrics()["regrow/collapsed_layers"] == 1
    assert (report.layers[1].n_dead_outputs, report.layers[1].n_dead_inputs) == (19, 39)
    last = max(record.step for record in updater.history)
    assert int(re.search(r"by step (\d+)", message)[1]) < last, "training went on"


def test_a_warning_made_an_error_leaves_a_whole_step_behind() -> None:
    net, optimizer, updater = pruned_to_nothing(1e-3)
    with pytest.raises(LayerCollapseWarning):
        run(net, optimizer, 40, action="error")
    assert updater.history[-1].step == updater.steps
    optimizer.zero_grad()
    before = updater.steps
    assert run(net, optimizer, 5) == []
    assert updater.steps == before + 5


def test_no_warning_where_all_layers_shrink_alike() -> None:
    net, optimizer, updater = pruned_to_nothing(1.0)
    assert run(net, optimizer, 40) == []
    assert updater.report().collapsed == ()
    assert "COLLAPSED" not in str(updater.report())


@pytest.mark.parametrize(("left", "collapsed"), [(0, ("1.weight",)), (4, ("1.weight",)), (5, ())])
def test_the_threshold_is_a_hundredth_of_the_share(left: int, collapsed: tuple[str, ...]) -> None:
    """900 connections are left, by the shares of the start 450 in each layer: 4.5 is the limit."""
    net = nn.Sequential(nn.Linear(20, 50), nn.Linear(50, 20))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    updater = regrow.static(net, optimizer, sparsity=0)
    state = updater.state_dict()
    for name, n in (("0.weight", 900 - left), ("1.weight", left)):
        active = torch.arange(1000) < n
        state["layers"][name]["active"] = regrow.topology.pack_bits(active)
        state["layers"][name]["n_active"] = n
        state["layers"][name]["born"] = torch.ones(n, dtype=torch.uint8) * 0
    # (One rewiring, by a rule that this static updater has not.)
    dropped, nothing = [1000 - (900 - left), 1000 - left], [0, 0]
    row = [1, 0, *dropped, *nothing, *nothing, 900 - left, left, 1, 1]
    state |= {"steps": 1, "history": torch.tensor([row])}
    updater.load_state_dict(state)
    assert updater.nnz == 900
    report = updater.report()
    assert report.collapsed == collapsed
    if not left:
        row = report.layers[1]
        assert (row.n_dead_outputs, row.n_dead_inputs) == (20, 50)
        assert (row.survival_age, row.survival_age_median, row.churn) == (None, None, 0)


def test_a_part_is_compared_with_itself() -> None:
    """One part pruned to a thousandth, evenly, is no collapse; nor does it hide one."""
    net = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 40))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    parts = [
        regrow.part(regrow.gradual, select="0.weight", sparsity=0.995, n_steps=20, interval=1),
        regrow.part(regrow.static, select=["1.weight", "2.weight"], sparsity=0.1),
    ]
    updater = regrow.combine(net, optimizer, parts)
    for _ in range(20):
        net(torch.randn(4, 40)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert updater.topologies["0.weight"].nnz == 8
    assert updater.report().collapsed == ()
