"""Averages over the union against dense matrices."""

import pytest
import torch

from regrow import SparsityError
from regrow.systems.truly_sparse import average_layers
from regrow.topology import random_topology


def layers(n, nnz=60, shape=(12, 17)):
    generator = torch.Generator().manual_seed(n)
    topologies = [
        random_topology(shape, nnz + k, generator=generator, compact=True) for k in range(n)
    ]
    return topologies, [torch.randn(t.nnz, generator=generator).double() for t in topologies]


def dense_of(topology, values):
    dense = torch.zeros(topology.n_elements, dtype=torch.float64)
    dense[topology.indices] = values
    return dense.view(topology.shape)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_average_of_all(n):
    topologies, values = layers(n)
    expected = torch.stack([dense_of(*pair) for pair in zip(topologies, values, strict=True)])
    topology, means = average_layers(topologies, values, nnz=10_000)
    assert topology.is_compact
    assert torch.equal(topology.mask, torch.stack([t.mask for t in topologies]).any(0))
    torch.testing.assert_close(dense_of(topology, means), expected.mean(0), rtol=1e-14, atol=0)


def test_pruned_back_to_the_count_by_sign():
    topologies, values = layers(4)
    whole, means = average_layers(topologies, values, nnz=10_000)
    topology, kept = average_layers(topologies, values, nnz=60)
    assert topology.nnz == 60
    full = dense_of(whole, means)
    assert torch.equal(dense_of(topology, kept), full * topology.mask)
    share = 60 / whole.nnz
    for side in (full > 0, full < 0):
        stays, goes = full[side & topology.mask].abs(), full[side & ~topology.mask].abs()
        assert abs(len(stays) - share * int(side.sum())) <= 1
        assert stays.min() > goes.max()


def test_arguments_are_checked():
    topologies, values = layers(2)
    with pytest.raises(SparsityError, match="one shape"):
        average_layers([topologies[0], layers(1, shape=(3, 30))[0][0]], values, nnz=5)
    with pytest.raises(SparsityError, match="same networks"):
        average_layers(topologies, values[:1], nnz=5)
    with pytest.raises(SparsityError, match="same networks"):
        average_layers([], [], nnz=5)
