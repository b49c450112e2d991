"""E2ENet: counts and schedule of the paper and its code, whole kernels, shifted channels."""

import math
from dataclasses import replace

import pytest
import torch
from example_cases import check_drops, example, half_cosine, n_planned, settings, sgd

E2ENET_TABLE = [  # of the paper and its code: parameters, and those that are not zero
    ({}, 23_899_088, 11_229_255),  # AMOS, S = 0.7
    ({"sparsity": 0.9, "sparsity_of_48": None}, 23_899_088, 7_638_615),  # AMOS, S = 0.9
    ({"n_inputs": 4, "n_classes": 4, "sparsity_of_48": None}, 23_892_512, 11_245_449),  # BraTS
    ({"n_classes": 14, "sparsity_of_48": None}, 23_897_776, 11_250_713),  # BTCV
]


@pytest.mark.parametrize(("changes", "n_parameters", "n_live"), E2ENET_TABLE)
def test_e2enet_has_the_published_size(changes, n_parameters, n_live):
    module = example("e2enet_kernels")
    s = replace(module.PUBLISHED, **changes)
    model = module.E2ENet(s)
    assert sum(p.numel() for p in model.parameters()) == n_parameters
    updater = module.e2enet(model, sgd(model), s)
    topologies = updater.topologies
    assert len(topologies) == 35
    assert sum(t.n_elements for t in topologies.values()) == 18_067_200
    for topology in topologies.values():
        c0, c1 = topology.shape[:2]
        density = 0.2 if c0 == 48 and s.sparsity_of_48 is not None else 1 - s.sparsity
        assert topology.n_active == round(density * c0 * c1)
    assert n_parameters - 18_067_200 + updater.nnz == n_live
    assert n_planned(updater) == 208


def test_e2enet_moves_whole_kernels(drops, capsys):
    s = settings("e2enet_kernels", n_epochs=3)
    updater = example("e2enet_kernels").main(s)
    assert [record.step for record in updater.history] == [2, 4, 6]
    for topology in updater.topologies.values():
        by_kernel = topology.mask.flatten(2)
        assert torch.equal(by_kernel.any(2), by_kernel.all(2))
        assert int(by_kernel.all(2).sum()) == round(0.3 * math.prod(topology.shape[:2]))
    check_drops(drops, updater, lambda step: half_cosine(0.5, 0.001, step, 6))


def test_e2enet_shifts_groups_of_channels():
    """Group 0 sees the next slice, the last group the one before; zeros move in."""
    module = example("e2enet_kernels")
    x = torch.arange(1.0, 5.0).view(1, 1, 4, 1, 1)
    assert module.shift(x, -1).flatten().tolist() == [2, 3, 4, 0]
    assert module.shift(x, 1).flatten().tolist() == [0, 1, 2, 3]
    assert module.shift(x, 0).flatten().tolist() == [1, 2, 3, 4]
