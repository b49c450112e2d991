"""DSN: counts and schedule of the paper and its code, each group within its region."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from example_cases import example, half_cosine, n_planned, settings, sgd

import regrow


def dsn_of(**changes):
    module = example("dsn_regions")
    s = replace(module.PUBLISHED, **changes)
    torch.manual_seed(0)
    model = module.DSN(s)
    optimizer = sgd(model)
    return s, model, optimizer, module.dsn(model, optimizer, s)


@pytest.mark.parametrize(
    ("changes", "n_parameters", "n_live", "first", "others"),
    [
        ({}, 802_153, 125_404, 732, 34_459),
        (
            {"n_features": 59, "n_inputs": 6, "n_classes": 4, "sparsity": 0.9},
            1_662_923,
            142_415,
            27_150,
            27_150,
        ),
    ],
)
@pytest.mark.parametrize("first_fill", ["tap_major", "random"])
def test_dsn_has_the_published_size(changes, n_parameters, n_live, first, others, first_fill):
    _, model, _, updater = dsn_of(first=first_fill, **changes)
    assert sum(p.numel() for p in model.parameters()) == n_parameters
    assert [t.nnz for t in updater.topologies.values()] == [first] + 3 * [others]
    n_sparse = sum(t.n_elements for t in updater.topologies.values())
    assert n_parameters - n_sparse + updater.nnz == n_live
    assert n_planned(updater) == 200


def test_dsn_fills_tap_by_tap():
    _, _, _, updater = dsn_of(n_features=5)
    mask = updater.topologies["convs.1.weight"].mask
    assert mask.shape == (15, 5, 39)
    for group, region in enumerate((13, 26, 39)):
        budget = int(5 * 5 * 39 * (region / 39) * 0.2)
        own = torch.zeros(5, 5, 39, dtype=torch.bool)
        for tap in range(39):
            for out in range(5):
                for source in range(5):
                    if budget > 0:
                        own[out, source, tap] = True
                        budget -= 1
        assert torch.equal(mask[5 * group : 5 * group + 5], own)


def test_dsn_draws_within_regions():
    *_, updater = dsn_of(n_features=5, first="random")
    groups = updater.topologies["convs.1.weight"].mask.chunk(3)
    for group, region in zip(groups, (13, 26, 39), strict=True):
        assert int(group.sum()) == int(5 * 5 * region * 0.2)
        assert not group[..., region:].any()
        taps = group.nonzero()[:, 2]
        assert taps.max() > region - 4  # by tap, it would be the first few
        assert taps.min() < 3


def test_dsn_rewires_each_group_within_its_region(monkeypatch, capsys):
    seen, real = [], regrow.criteria.random

    def function(layer, flat):
        topology = layer.topology
        n_in, n_taps = topology.shape[1:]
        group = flat // (n_in * n_taps) // (topology.shape[0] // 3)
        assert bool((flat % n_taps < 13 * (group + 1)).all())
        free = topology.room - topology.counts()
        n_dropped = group.bincount(minlength=3) - free
        seen.append((n_dropped.tolist(), topology.counts().tolist()))
        return real(layer, flat)

    spy = regrow.criteria.Score("random", function, by_unit=True)
    monkeypatch.setattr(regrow.criteria, "random", spy)
    s = settings("dsn_regions", n_epochs=20)
    updater = example("dsn_regions").main(s)
    assert [record.step for record in updater.history] == [10, 20, 30, 40]
    # To 0.001 over four fifths of the steps, then constant.
    fractions = [half_cosine(0.5, 0.001, step, 32) for step in (10, 20, 30, 40) for _ in range(4)]
    assert fractions[-1] == pytest.approx(0.001)
    assert len(seen) == 16
    for fraction, (dropped, counts) in zip(fractions, seen, strict=True):
        assert dropped == [math.ceil(fraction * n - 1e-9) for n in counts]
    n = 4 * 4 * 39 / 3 * 0.2
    assert updater.topologies["convs.1.weight"].counts().tolist() == [
        int(n),
        int(2 * n),
        int(3 * n),
    ]


def test_dsn_explores_as_its_logs_say():
    """0.1919 to 0.1921 of a layer after the first of 100 epochs' updates (a third party's logs)."""
    s, model, optimizer, updater = dsn_of(n_epochs=100, steps_an_epoch=1)
    module, generator = example("dsn_regions"), torch.Generator().manual_seed(0)
    for _ in range(5):
        inputs, labels = module.series(s, 2, generator)
        F.nll_loss(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert updater.rewirings == 1
    drop = half_cosine(0.5, 0.001, 5, 80)
    assert drop == pytest.approx(0.4952, abs=5e-5)
    d, region = 2 / 3 * 0.2, 2 / 3
    kept = d * (1 - drop)
    expected = d + (d - kept) * (region - d) / (region - kept)
    assert expected == pytest.approx(0.1921, abs=5e-5)
    explored = [row.exploration for row in updater.report().layers[1:]]
    assert sum(explored) / 3 == pytest.approx(expected, abs=3e-4)
