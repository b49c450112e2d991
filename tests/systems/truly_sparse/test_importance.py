"""Importance pruning against loops over neurons."""

import resource

import numpy as np
import pytest
import torch
from torch import nn

import regrow
from regrow import SparsityError
from regrow.systems.truly_sparse import (
    ImportancePruning,
    Recipe,
    attach_set,
    importance_pruning,
    neuron_importance,
    sparse_mlp,
)


def with_updater(sizes=(30, 40, 20, 3), *, epsilon=3, seed=0):
    net = sparse_mlp(sizes, epsilon=epsilon, seed=seed, dtype=torch.float64)
    optimizer, updater = attach_set(net, Recipe(), interval=3)
    return net, optimizer, updater


def step(net, optimizer, n=1):
    x, y = torch.randn(8, net[0].in_features, dtype=torch.float64), torch.arange(8) % 3
    for _ in range(n):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()


def expected_losses(dense, percentile):
    """Which rows of a dense weight lose everything, by the definition."""
    strength = [sum(abs(v) for v in row) for row in dense.tolist()]
    threshold = np.percentile(strength, percentile)
    if threshold == 0:
        return set()
    return {j for j, s in enumerate(strength) if s <= threshold}


def test_importance_is_the_sum_of_magnitudes():
    net, _, updater = with_updater()
    dense = net[0].dense_weight()
    expected = dense.abs().sum(1)
    found = neuron_importance(net[0].values, updater.topologies["0.weight"])
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(
        neuron_importance(dense, updater.topologies["0.weight"]), expected, rtol=1e-14, atol=0
    )


@pytest.mark.parametrize("percentile", [5, 20, 50, 90])
def test_weak_neurons_lose_all_they_receive(percentile):
    net, optimizer, updater = with_updater()
    step(net, optimizer)
    before = {name: net[int(name[0])].dense_weight() for name in updater.topologies}
    output = net[4].dense_weight()
    momenta = {n: dict(optimizer.state[p]) for n, p in updater.parameters.items()}
    dropped = importance_pruning(updater, ["0.weight", "2.weight"], percentile=percentile)
    for name, dense in before.items():
        layer = net[int(name[0])]
        gone = expected_losses(dense, percentile)
        assert gone
        kept = torch.tensor([j not in gone for j in range(len(dense))])
        assert torch.equal(layer.dense_weight(), dense * kept[:, None])
        assert dropped[name] == int(dense[~kept].count_nonzero())
        assert layer.nnz == int(dense.count_nonzero()) - dropped[name]
        # The optimizer's state went along.
        assert optimizer.state[layer.values]["momentum_buffer"].shape == (layer.nnz,)
        assert momenta[name]["momentum_buffer"].shape == (layer.nnz + dropped[name],)
    assert torch.equal(net[4].dense_weight(), output)
    step(net, optimizer, 7)  # rewirings keep the new counts
    assert [net[0].nnz, net[2].nnz] == [
        int(before[n].count_nonzero()) - dropped[n] for n in ("0.weight", "2.weight")
    ]


def test_once_the_share_is_gone_nothing_more_goes():
    net, _, updater = with_updater()
    assert importance_pruning(updater, ["0.weight"], percentile=30)["0.weight"] > 0
    nnz, history = net[0].nnz, updater.rewirings
    for _ in range(3):
        assert importance_pruning(updater, ["0.weight"], percentile=20) == {"0.weight": 0}
    assert net[0].nnz == nnz
    assert updater.rewirings == history
    # A larger share is not reached yet.
    assert importance_pruning(updater, ["0.weight"], percentile=60)["0.weight"] > 0


def test_neurons_that_growth_revives_go_again():
    net, optimizer, updater = with_updater(epsilon=5)
    importance_pruning(updater, ["0.weight"], percentile=40)
    step(net, optimizer, 5)
    assert net[0].topology.csr[0].diff().min() >= 0
    assert importance_pruning(updater, ["0.weight"], percentile=40)["0.weight"] > 0


def test_the_strongest_stay():
    net, _, updater = with_updater()
    with torch.no_grad():
        dense = torch.zeros(40, 30, dtype=torch.float64)
        dense.view(-1)[net[0].topology.indices] = 1.0
        row_sums = dense.sum(1)
        rows = net[0].topology.indices // 30
        net[0].values.copy_(1 / row_sums[rows])
    # All neurons receive the same: the layer is not cut.
    dropped = importance_pruning(updater, ["0.weight"], percentile=50)["0.weight"]
    assert dropped < net[0].nnz + dropped
    assert net[0].nnz > 0


def test_masked_layers_are_pruned_alike():
    net, _, updater = with_updater()
    masked = nn.Sequential(nn.Linear(30, 40, dtype=torch.float64), nn.ReLU())
    masked[0].weight.data.copy_(net[0].dense_weight())
    other = regrow.static(
        masked,
        torch.optim.SGD(masked.parameters(), 0.1),
        sparsity=None,
        allocation=regrow.explicit({"0.weight": net[0].topology}),
    )
    assert importance_pruning(updater, ["0.weight"], percentile=20) == importance_pruning(
        other, ["0.weight"], percentile=20
    )
    assert other.topologies["0.weight"] == updater.topologies["0.weight"]
    assert torch.equal(masked[0].weight, net[0].dense_weight())


def test_nothing_of_the_dense_size_is_allocated():
    net = sparse_mlp((30_000, 30_000, 10), epsilon=1)  # a mask would be 900 MB
    _, updater = attach_set(net, Recipe(), interval=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    importance_pruning(updater, ["0.weight"], percentile=20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_arguments_are_checked():
    net, _, updater = with_updater()
    nnz = net[0].nnz
    with pytest.raises(SparsityError, match=r"'9\.weight', which is no layer"):
        importance_pruning(updater, ["0.weight", "9.weight"])
    for wrong in (0, 100, -3, float("nan")):
        with pytest.raises(ValueError, match="percentile must lie"):
            importance_pruning(updater, ["0.weight"], percentile=wrong)
    assert net[0].nnz == nnz
    with pytest.raises(SparsityError, match="weight must have shape"):
        neuron_importance(torch.ones(3), net[0].topology)


def test_schedule():
    official = ImportancePruning()
    assert [e for e in range(1, 240) if official.is_due(e)] == [210, 220, 230]
    some = ImportancePruning(10, start=2, every=3, stop=8)
    assert [e for e in range(20) if some.is_due(e)] == [5, 8]
    with pytest.raises(ValueError, match="percentile"):
        ImportancePruning(100)
    with pytest.raises(ValueError, match="every"):
        ImportancePruning(every=0)
