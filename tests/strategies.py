"""Hypothesis strategies for weights, topologies and scores."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from structure_cases import CASES, FITS, TRANSPOSED_FITS
from torch import Tensor

from regrow.topology import Structure, Topology, TopologyDelta, Transposed, random_topology
from regrow.typing import Shape

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


PLAIN = [(CASES[name].structure, shape) for name, shape in FITS]
INPUTS_FIRST = [(Transposed(CASES[name].structure, n), shape) for name, n, shape in TRANSPOSED_FITS]


def structured(*, fixed: bool | None = None) -> st.SearchStrategy[tuple[Structure, Shape]]:
    """A structure of the table and a shape it fits, some of transposed convolutions.

    With ``fixed`` those only that fix their sparsity, or that do not.
    """
    plain, inputs_first = (
        [one for one in some if fixed is None or (one[0].fixed_sparsity is not None) == fixed]
        for some in (PLAIN, INPUTS_FIRST)
    )
    return st.one_of(*[st.sampled_from(plain)] * 3, st.sampled_from(inputs_first))


@st.composite
def counts_within(
    draw, structure: Structure, shape: Shape, room: Tensor, *, empty_groups: bool = True
) -> Tensor:
    """Active units of each group that the structure may have where groups hold ``room``."""
    if structure.fixed_sparsity is not None:
        return fixed_counts(structure, shape)
    if structure.even_groups:
        counts = torch.full_like(room, draw(st.integers(0, int(room.min()))))
        if empty_groups and draw(st.booleans()):
            counts[torch.tensor(draw(flags(room.numel())), dtype=torch.bool)] = 0
        return counts
    return torch.tensor([draw(st.integers(0, n)) for n in room.tolist()], dtype=torch.int64)


def fixed_counts(structure: Structure, shape: Shape) -> Tensor:
    """Active units of each group where the structure fixes them."""
    n_groups = structure.n_groups(shape)
    size = structure.n_units(shape) // n_groups
    return torch.full((n_groups,), round(size * (1 - structure.fixed_sparsity)))


def flags(n: int) -> st.SearchStrategy[list[bool]]:
    """``n`` booleans."""
    return st.lists(st.booleans(), min_size=n, max_size=n)


def generators() -> st.SearchStrategy[torch.Generator]:
    """Seeded generators."""
    return st.integers(0, 2**16).map(lambda seed: torch.Generator().manual_seed(seed))


@st.composite
def allowed_units(draw, structure: Structure, shape: Shape) -> Tensor | None:
    """Which units may ever be active, with room enough for what the structure fixes."""
    if draw(st.booleans()):
        return None
    generator = draw(generators())
    share = draw(st.floats(0.3, 1))
    allowed = torch.rand(structure.n_units(shape), generator=generator) < share
    if structure.fixed_sparsity is not None:
        least = fixed_counts(structure, shape)
        kept = random_topology(shape, least, generator=generator, structure=structure)
        allowed |= kept.active
    return allowed


@st.composite
def topologies(draw, *, with_allowed: bool = True, empty_groups: bool = True) -> Topology:
    """Topologies of every structure, empty and full ones included, some with ``allowed``."""
    structure, shape = draw(structured())
    allowed = draw(allowed_units(structure, shape)) if with_allowed else None
    return draw(topologies_of(structure, shape, allowed=allowed, empty_groups=empty_groups))


@st.composite
def topologies_of(
    draw,
    structure: Structure,
    shape: Shape,
    *,
    allowed: Tensor | None = None,
    empty_groups: bool = True,
) -> Topology:
    """Topologies of one structure and shape."""
    units = torch.arange(structure.n_units(shape))
    if allowed is not None:
        units = units[allowed]
    groups = structure.group_of(units, shape)
    room = torch.bincount(groups, minlength=structure.n_groups(shape))
    counts = draw(counts_within(structure, shape, room, empty_groups=empty_groups))
    return random_topology(
        shape, counts, generator=draw(generators()), structure=structure, allowed=allowed
    )


def subset(draw, units: Tensor) -> Tensor:
    """Some of ``units``, in their order."""
    return units[torch.tensor(draw(flags(units.numel())), dtype=bool)]


@st.composite
def decisions(draw) -> tuple[Topology, TopologyDelta]:
    """A topology and a decision that it allows; some units are dropped and grown at once."""
    before = draw(topologies())
    after = draw(topologies_of(before.structure, before.shape, allowed=before.allowed))
    both = subset(draw, (before.active & after.active).nonzero().squeeze(1))
    dropped, grown = before.active & ~after.active, after.active & ~before.active
    dropped[both] = grown[both] = True
    return before, TopologyDelta(dropped.nonzero().squeeze(1), grown.nonzero().squeeze(1))
