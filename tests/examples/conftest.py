"""Rewirings and rules of the examples, overheard."""

import pytest

import regrow


@pytest.fixture
def drops(monkeypatch):
    """A list of (layer, units dropped, units active before) of each layer in each rewiring.

    Growth is asked for every unit that is free or was dropped: how many were dropped follows.
    """
    seen = []

    def spy_on(name):
        real = getattr(regrow.criteria, name)

        def function(layer, flat):
            topology = layer.topology
            n_free = topology.n_allowed - topology.n_active
            seen.append((layer.name, flat.numel() - n_free, topology.n_active))
            return real(layer, flat)

        spy = regrow.criteria.Score(
            name, function, reads_gradient=real.reads_gradient, by_unit=real.by_unit
        )
        monkeypatch.setattr(regrow.criteria, name, spy)

    spy_on("random")
    spy_on("gradient")
    return seen


@pytest.fixture
def rules(monkeypatch):
    """The rules that compositions make."""
    made, real = [], regrow.Rule
    monkeypatch.setattr(regrow, "Rule", lambda **parts: made.append(real(**parts)) or made[-1])
    return made
