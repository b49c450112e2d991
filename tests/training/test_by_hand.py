"""One rewiring of each structure, worked out by hand on whole numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from structure_cases import CASES
from torch import nn

from regrow.criteria import gradient, magnitude
from regrow.topology import (
    NM,
    Block,
    ChannelGroups,
    ConstantFanIn,
    InChannel,
    Kernel,
    OutChannel,
    Structure,
    Topology,
    Transposed,
    Unstructured,
    apply,
)
from regrow.training import Budget, MaskedWeight, Quota, Standing, per_group, per_layer, rewire

Nested = Sequence  # lists of whole numbers, as deep as the weight has dimensions


@dataclass
class Worked:
    """What goes in, and all that comes out on the way."""

    structure: Structure
    weights: Nested  # 0 where there is no connection
    gradient: Nested
    fraction: float
    units: list[int]  # active before
    scores: list[int]  # of those
    dropped: list[int]
    grown: list[int]
    mask: Nested  # afterwards
    budget: Budget = field(default_factory=per_layer)
    allowed: list[int] | None = None


WORKED = {
    # Two of four go: 1 and 2. The largest gradients elsewhere are 7 and 4.
    "unstructured": Worked(
        Unstructured(),
        weights=[[5, -1, 0, 0], [0, 3, -2, 0]],
        gradient=[[9, 0, 4, -7], [1, 0, 0, 3]],
        fraction=0.5,
        units=[0, 1, 5, 6],
        scores=[5, 1, 3, 2],
        dropped=[1, 6],
        grown=[2, 3],
        mask=[[1, 0, 1, 1], [0, 1, 0, 0]],
    ),
    # The same, where 3 with the gradient 7 and 2 with 4 may never exist: 7 and 4 are next.
    "unstructured, some not allowed": Worked(
        Unstructured(),
        weights=[[5, -1, 0, 0], [0, 3, -2, 0]],
        gradient=[[9, 0, 4, -7], [1, 0, 0, 3]],
        fraction=0.5,
        units=[0, 1, 5, 6],
        scores=[5, 1, 3, 2],
        dropped=[1, 6],
        grown=[4, 7],
        mask=[[1, 0, 0, 0], [1, 1, 0, 1]],
        allowed=[0, 1, 4, 5, 6, 7],
    ),
    # Three of eight go, over all runs: 1, 2 and 1, of the first, second and last. The first
    # chooses again what it dropped (8), so nothing happens there; the others grow 9 and 3.
    "nm": Worked(
        NM(2, 4),
        weights=[[4, -1, 0, 0, 0, 0, 2, -6], [3, 0, -5, 0, 0, 7, 0, 1]],
        gradient=[[0, 8, -3, 2, 5, -9, 1, 0], [0, 4, 0, -6, 2, 0, 3, 1]],
        fraction=0.375,
        units=[0, 1, 6, 7, 8, 10, 13, 15],
        scores=[4, 1, 2, 6, 3, 5, 7, 1],
        dropped=[6, 15],
        grown=[5, 14],
        mask=[[1, 1, 0, 0, 0, 1, 0, 1], [1, 0, 1, 0, 0, 1, 1, 0]],
    ),
    # A convolution (1, 4, 2): a run is four channels at one kernel position, a column here.
    "nm of a convolution": Worked(
        NM(2, 4),
        weights=[[[6, 0], [-2, 3], [0, 0], [0, -4]]],
        gradient=[[[0, 5], [0, 0], [1, 7], [-8, 0]]],
        fraction=0.5,
        units=[0, 2, 3, 7],
        scores=[6, 2, 3, 4],
        dropped=[2, 3],
        grown=[5, 6],
        mask=[[[1, 0], [0, 0], [0, 1], [1, 1]]],
    ),
    # Inputs first: of two outputs, columns here, a run is four inputs. Units are counted output
    # by output: 0 to 3 in the first column, 4 to 7 in the second.
    "nm, transposed": Worked(
        Transposed(NM(2, 4)),
        weights=[[6, 0], [-2, 3], [0, 0], [0, -4]],
        gradient=[[0, 5], [0, 0], [1, 7], [-8, 0]],
        fraction=0.5,
        units=[0, 1, 5, 7],
        scores=[6, 2, 3, 4],
        dropped=[1, 5],
        grown=[3, 6],
        mask=[[1, 0], [0, 0], [0, 1], [1, 1]],
    ),
    # Both that go lead to the first output, which grows two: 9, dropped just now, and 4. The
    # larger gradients of the second output do not count.
    "constant fan-in": Worked(
        ConstantFanIn(),
        weights=[[1, 0, -2, 0], [0, 5, 0, 6]],
        gradient=[[9, 4, 0, -3], [8, 8, 8, 8]],
        fraction=0.5,
        units=[0, 2, 5, 7],
        scores=[1, 2, 5, 6],
        dropped=[2],
        grown=[1],
        mask=[[1, 1, 0, 0], [0, 1, 0, 1]],
    ),
    # Tiles score 1 + 2 + 0 + 3 and 2 + 2 + 2 + 3; the others' gradients 4 and 5.
    "block": Worked(
        Block(2, 2),
        weights=[[1, -2, 0, 0], [0, 3, 0, 0], [0, 0, 2, 2], [0, 0, -2, -3]],
        gradient=[[0, 0, 1, 1], [0, 1, 1, 1], [5, 0, 0, 0], [0, 0, 9, 9]],
        fraction=0.5,
        units=[0, 3],
        scores=[6, 9],
        dropped=[0],
        grown=[2],
        mask=[[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]],
    ),
    # Kernels of two positions: 3 and 4 are there, 6 and 5 the gradients of the others.
    "kernel": Worked(
        Kernel(),
        weights=[[[1, -2], [0, 0]], [[0, 0], [4, 0]]],
        gradient=[[[1, 1], [3, -3]], [[5, 0], [0, 0]]],
        fraction=0.5,
        units=[0, 3],
        scores=[3, 4],
        dropped=[0],
        grown=[1],
        mask=[[[0, 0], [1, 1]], [[0, 0], [1, 1]]],
    ),
    # The first output lost a kernel and grows one of its own: 2, not the 9 of the second.
    "kernel, even outputs": Worked(
        Kernel(per_output=True),
        weights=[[[1, -2], [0, 0], [0, 0]], [[0, 0], [4, 0], [0, 0]]],
        gradient=[[[0, 0], [1, 1], [0, -1]], [[9, 0], [0, 0], [0, 0]]],
        fraction=0.5,
        units=[0, 4],
        scores=[3, 4],
        dropped=[0],
        grown=[1],
        mask=[[[0, 0], [1, 1], [0, 0]], [[0, 0], [1, 1], [0, 0]]],
    ),
    "output channel": Worked(
        OutChannel(),
        weights=[[1, -1], [3, 0], [0, 0]],
        gradient=[[1, 0], [0, 0], [2, -2]],
        fraction=0.5,
        units=[0, 1],
        scores=[2, 3],
        dropped=[0],
        grown=[2],
        mask=[[0, 0], [1, 1], [1, 1]],
    ),
    "input channel": Worked(
        InChannel(),
        weights=[[1, 0, 4], [-1, 0, -4]],
        gradient=[[1, 3, 0], [1, -3, 0]],
        fraction=0.5,
        units=[0, 2],
        scores=[2, 8],
        dropped=[0],
        grown=[1],
        mask=[[0, 1, 1], [0, 1, 1]],
    ),
    # Two of four go, 1 and 2, both of the first run of outputs; it grows 6 (dropped) and 3.
    "runs of outputs": Worked(
        ChannelGroups(2),
        weights=[[5, -1], [2, 0], [0, 0], [0, 4]],
        gradient=[[0, 0], [6, 3], [1, 0], [8, 2]],
        fraction=0.5,
        units=[0, 1, 2, 7],
        scores=[5, 1, 2, 4],
        dropped=[1],
        grown=[3],
        mask=[[1, 0], [1, 1], [0, 0], [0, 1]],
    ),
    # Each run on its own, rounded up: half of three are two, half of one is one.
    "runs of outputs, each its share": Worked(
        ChannelGroups(2),
        weights=[[5, -1], [2, 0], [0, 0], [0, 4]],
        gradient=[[0, 0], [6, 3], [1, 0], [8, 2]],
        fraction=0.5,
        units=[0, 1, 2, 7],
        scores=[5, 1, 2, 4],
        dropped=[1, 7],
        grown=[3, 6],
        mask=[[1, 0], [1, 1], [0, 0], [1, 0]],
        budget=per_group(rounding="up"),
    ),
    # As DSN has it: the second run may use its first column only, so 9 and 8 do not count, and it
    # chooses 6 again. All go in the first, and 6, 3 and the lower of two zeros are chosen.
    "runs of outputs, a region": Worked(
        ChannelGroups(2),
        weights=[[5, -1], [2, 0], [0, 0], [4, 0]],
        gradient=[[0, 0], [6, 3], [1, 9], [2, 8]],
        fraction=1.0,
        units=[0, 1, 2, 6],
        scores=[5, 1, 2, 4],
        dropped=[1],
        grown=[3],
        mask=[[1, 0], [1, 1], [0, 0], [1, 0]],
        allowed=[0, 1, 2, 3, 4, 6],
    ),
}


def layer_of(worked: Worked, dtype: torch.dtype = torch.float64) -> MaskedWeight:
    weights = torch.tensor(worked.weights, dtype=dtype)
    shape = tuple(weights.shape)
    allowed = None
    if worked.allowed is not None:
        allowed = torch.zeros(worked.structure.n_units(shape), dtype=torch.bool)
        allowed[worked.allowed] = True
    topology = Topology(
        torch.tensor(worked.units), shape, structure=worked.structure, allowed=allowed
    )
    layer = MaskedWeight("w", nn.Parameter(weights), topology)
    layer.begin(0, 1, torch.tensor(worked.gradient, dtype=dtype))
    return layer


class Watched:
    """A budget that keeps what it was shown."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.seen: list[Standing] = []

    def check(self, layers: object, target: float | None) -> None: ...

    def __call__(
        self, standings: Sequence[Standing], fraction: float, target: float | None
    ) -> list[Quota]:
        self.seen += standings
        return self.budget(standings, fraction, target)


def test_there_is_an_example_of_each_structure() -> None:
    worked = {type(one.structure) for one in WORKED.values()}
    ours = {type(case.structure) for name, case in CASES.items() if not name.startswith("own-")}
    assert worked == ours | {Transposed}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", WORKED)
def test_by_hand(name: str, dtype: torch.dtype) -> None:
    worked = WORKED[name]
    layer, budget = layer_of(worked, dtype), Watched(worked.budget)
    before, counts = layer.topology, layer.topology.counts()
    live = torch.tensor(worked.weights) != 0
    assert bool(before.mask[live].all()), "the example holds together"
    delta = rewire([layer], drop=magnitude, grow=gradient, fraction=worked.fraction, budget=budget)[
        "w"
    ]
    (standing,) = budget.seen
    assert standing.units.tolist() == worked.units
    assert standing.scores.tolist() == worked.scores
    assert (delta.dropped.tolist(), delta.grown.tolist()) == (worked.dropped, worked.grown)
    after = apply(before, delta)
    assert after.mask.to(torch.int64).tolist() == worked.mask
    assert torch.equal(after.counts(), counts)
    layer.commit(after, delta, None)
    assert_only_what_was_dropped_is_gone(layer, worked, before)


def assert_only_what_was_dropped_is_gone(
    layer: MaskedWeight, worked: Worked, before: Topology
) -> None:
    weights = torch.tensor(worked.weights, dtype=layer.parameter.dtype)
    want = torch.where(before.mask & layer.topology.mask, weights, torch.zeros_like(weights))
    assert torch.equal(layer.parameter.detach(), want)
