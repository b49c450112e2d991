"""Hypothesis strategies for weights, topologies and scores, and a structure with groups."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from regrow.errors import SparsityError
from regrow.topology import Structure, Topology, TopologyDelta, Unstructured


@dataclass(frozen=True)
class PairsInRows(Structure):
    """Unit: two neighbours of one row. Group: the row. The smallest structure with all there is."""

    def check(self, shape):
        if len(shape) != 2 or shape[1] % 2 or not math.prod(shape):
            raise SparsityError(f"pairs need rows of even length, got {shape}")

    def n_units(self, shape):
        return math.prod(shape) // 2

    def n_groups(self, shape):
        return shape[0]

    def unit_of(self, flat, shape):
        return flat // 2

    def group_of(self, unit, shape):
        return unit // (shape[1] // 2)

    def elements_of(self, unit, shape):
        return torch.stack([2 * unit, 2 * unit + 1], dim=1)


shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
"""Shapes of one to four dimensions, small."""

pair_shapes = st.tuples(st.integers(1, 4), st.integers(1, 4).map(lambda n: 2 * n))
"""Shapes that hold ``PairsInRows``."""

layer_shapes = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3]), st.just(3)),
)
"""Shapes of linear and convolution weights."""

models = st.lists(layer_shapes, min_size=1, max_size=8).map(
    lambda chosen: {f"layer{i}": shape for i, shape in enumerate(chosen)}
)
"""Name -> shape, as the allocation sees a model."""

sparsities = st.one_of(
    st.floats(0, 0.99), st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
)

awkward_floats = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 2.0, math.inf, -math.inf, math.nan]),
    st.floats(-3, 3, width=32),
)
"""Scores with many ties, infinities and NaN."""


@st.composite
def topologies(draw) -> Topology:
    """Topologies of both structures, empty and full ones included."""
    structure = draw(st.sampled_from([Unstructured(), PairsInRows()]))
    shape = draw(shapes if isinstance(structure, Unstructured) else pair_shapes)
    n_units = structure.n_units(shape)
    active = draw(st.lists(st.booleans(), min_size=n_units, max_size=n_units))
    return Topology.from_active(torch.tensor(active), shape, structure=structure)


def subset(draw, units: Tensor) -> Tensor:
    """Some of ``units``, in their order."""
    n = units.numel()
    return units[torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=bool)]


@st.composite
def decisions(draw) -> tuple[Topology, TopologyDelta]:
    """A topology and a decision that it allows; some units are dropped and grown at once."""
    topology = draw(topologies())
    dropped = subset(draw, topology.units)
    free = ~topology.active
    free[dropped] = True
    return topology, TopologyDelta(dropped, subset(draw, free.nonzero().squeeze(1)))
