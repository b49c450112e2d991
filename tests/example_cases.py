"""The examples as modules, at sizes that run in a moment, and what their tests share."""

import importlib.util
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import torch

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
COMPOSITIONS = {
    "dsn_regions": "dsn",
    "e2enet_kernels": "e2enet",
    "freetickets": "edst",
    "itop": "itop",
    "nm_attention": "sparse",
    "slak": "slak",
    "sparsify_an_mlp": "sparse",
    "your_own_criterion": "sparse",
}
TINY = {
    "dsn_regions": {"n_features": 4, "n_epochs": 10, "steps_an_epoch": 2},
    "e2enet_kernels": {"n_epochs": 2, "steps_an_epoch": 2, "interval": 2, "side": 16},
    "freetickets": {"exploration_epochs": 3, "phase_epochs": 2, "interval": 4},
    "itop": {"n_epochs": 4, "steps_an_epoch": 4, "interval": 4},
    "nm_attention": {"n_layers": 1, "n_steps": 20, "interval": 5},
    "slak": {"n_epochs": 2, "steps_an_epoch": 2, "interval": 2, "side": 32},
    "sparsify_an_mlp": {"n_steps": 30, "interval": 5},
    "your_own_criterion": {"n_steps": 30, "interval": 5},
}


def example(name):
    """The example as a module, loaded once."""
    full = f"regrow_example_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, EXAMPLES / f"{name}.py")
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


def settings(name, **changes):
    return replace(example(name).Settings(), **(TINY[name] | changes))


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def n_planned(updater):
    return int(re.search(r"(\d+) rewirings planned", str(updater.plan()))[1])


def half_cosine(first, last, step, end):
    return last + (first - last) * (1 + math.cos(math.pi * min(step / end, 1))) / 2


def check_drops(drops, updater, fraction_at):
    """Every layer with free places dropped ceil(fraction * active) units in every rewiring."""
    names = [name for name, t in updater.topologies.items() if t.n_active < t.n_allowed]
    assert names
    expected = [(name, record.step) for record in updater.history for name in names]
    assert [name for name, _, _ in drops] == [name for name, _ in expected]
    assert [n for _, n, _ in drops] == [
        math.ceil(fraction_at(step) * n_active - 1e-9)
        for (_, step), (_, _, n_active) in zip(expected, drops, strict=True)
    ]
