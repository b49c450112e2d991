"""ITOP: the counts and the schedule of the paper, and exploration as chance has it."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from example_cases import check_drops, example, half_cosine, settings, sgd


def erk_densities(shapes, sparsity):
    """Scale (sum of dims / product of dims) to the budget; what exceeds 1 is dense."""
    raw = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}
    dense = set()
    while True:
        free = [name for name in shapes if name not in dense]
        budget = (1 - sparsity) * sum(map(math.prod, shapes.values()))
        budget -= sum(math.prod(shapes[name]) for name in dense)
        scale = budget / sum(raw[name] * math.prod(shapes[name]) for name in free)
        over = [name for name in free if scale * raw[name] > 1]
        if not over:
            return {name: 1.0 if name in dense else scale * raw[name] for name in shapes}
        dense.add(max(over, key=raw.get))


@pytest.mark.parametrize("growth", ["random", "gradient"])
def test_itop_counts_and_schedule(growth, drops, capsys):
    s = settings("itop", growth=growth)
    updater = example("itop").main(s)
    shapes = {name: t.shape for name, t in updater.topologies.items()}
    n = sum(map(math.prod, shapes.values()))
    assert updater.nnz == round(0.1 * n)
    for name, density in erk_densities(shapes, 0.9).items():
        assert abs(updater.topologies[name].nnz - density * math.prod(shapes[name])) <= 1
    assert [record.step for record in updater.history] == [4, 8, 12, 16]  # the last step too
    check_drops(drops, updater, lambda step: half_cosine(0.5, 0.005, step, 16))
    assert updater.weight_steps == updater.steps == 16


def test_itop_explores_as_chance_has_it():
    """After one rewiring: what was there, and of what grew what had not been there."""
    module = example("itop")
    s = replace(module.Settings(), widths=(64, 128), interval=1)
    torch.manual_seed(0)
    model = module.network(s)
    optimizer = sgd(model)
    updater = module.itop(model, optimizer, s)
    inputs, labels = module.pictures(s, 4, torch.Generator().manual_seed(0))
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    assert updater.rewirings == 1
    topology = updater.topologies["3.weight"]
    n, n_active = topology.n_elements, topology.n_active
    n_grown = math.ceil(half_cosine(0.5, 0.005, 1, s.n_steps) * n_active)
    n_open = n - (n_active - n_grown)
    p = (n - n_active) / n_open
    explored = updater.report().layers[1].exploration * n
    deviation = math.sqrt(n_grown * p * (1 - p))
    assert explored == pytest.approx(n_active + n_grown * p, abs=4 * deviation)
