"""Every structure, one line each: a definition by multi-indices, shapes it fits and shapes not.

A new structure is one file in ``regrow/topology/structures`` and one line in ``CASES``; all
property tests and the method table then run over it.
"""

import itertools
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from regrow.errors import SparsityError
from regrow.topology import (
    NM,
    Block,
    ChannelGroups,
    ConstantFanIn,
    InChannel,
    Kernel,
    OutChannel,
    Structure,
    Transposed,
    Unstructured,
)
from regrow.typing import Shape


@dataclass(frozen=True)
class PairsInRows(Structure):
    """A structure of the user's own: pairs of neighbours in a matrix; each row has its count."""

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


Label = Callable[..., Hashable]


@dataclass(frozen=True)
class Case:
    """A structure, and what it is in other words.

    ``unit`` and ``group`` get the multi-index of an element, outputs and inputs first: elements
    with one label are one unit, or in one group.
    """

    structure: Structure
    unit: Label
    group: Label
    fits: tuple[Shape, ...]
    refuses: tuple[Shape, ...]


def each(*index: int) -> Hashable:
    return index


def whole(*index: int) -> Hashable:
    return 0


# Linear, Conv1d, Conv2d, Conv3d; outputs are a multiple of 6, inputs of 4.
EVEN = ((6, 8), (6, 4, 3), (12, 4, 2, 3), (6, 8, 1, 2, 2))
ODD = ((5, 7), (1, 1), (5, 3, 3), (7, 5, 1, 3), (5, 1, 2, 1, 2))
ANY = (*EVEN, *ODD)
SIX = ((6, 8), (5, 7), (6, 4, 3), (5, 3, 2, 2), (6, 4, 1, 2, 2))  # 5 outputs: runs of 2, 2, 1
EMPTY = ((0,), (3, 0), (0, 4, 3, 3))
FLAT = (*EMPTY, (12,), ())
REST = (*FLAT, *ODD)

KERNEL_FAN_IN = Kernel(per_output=True)

CASES = {
    "unstructured": Case(Unstructured(), each, whole, (*ANY, (7,)), EMPTY),
    "nm-2:4": Case(NM(2, 4), each, lambda o, i, *k: (o, i // 4, k), (*EVEN, (1, 4)), REST),
    "nm-1:2": Case(NM(1, 2), each, lambda o, i, *k: (o, i // 2, k), EVEN, REST),
    "nm-4:4": Case(NM(4, 4), each, lambda o, i, *k: (o, i // 4, k), EVEN, REST),
    "fan-in": Case(ConstantFanIn(), each, lambda o, *_: o, ANY, FLAT),
    "block-2x4": Case(Block(2, 4), lambda o, i, *_: (o // 2, i // 4), whole, EVEN, REST),
    "block-3x1": Case(Block(3, 1), lambda o, i, *_: (o // 3, i), whole, EVEN, REST),
    "kernel": Case(Kernel(), lambda o, i, *_: (o, i), whole, ANY, FLAT),
    "kernel-fan-in": Case(KERNEL_FAN_IN, lambda o, i, *_: (o, i), lambda o, *_: o, ANY, FLAT),
    "out-channel": Case(OutChannel(), lambda o, *_: o, whole, ANY, FLAT),
    "in-channel": Case(InChannel(), lambda o, i, *_: i, whole, ANY, FLAT),
    "runs-3": Case(ChannelGroups(3), each, lambda o, *_: "aabbcc"[o], SIX, (*FLAT, (4, 8))),
    "own-pairs": Case(PairsInRows(), lambda o, i: (o, i // 2), lambda o, _: o, EVEN[:1], FLAT),
}  # fmt: skip

FITS = [(name, shape) for name, case in CASES.items() for shape in sorted(case.fits, key=math.prod)]
REFUSES = [(name, shape) for name, case in CASES.items() for shape in case.refuses]
TRANSPOSED_SHAPES = ((8, 6), (4, 6, 3), (8, 3, 2, 2), (8, 12, 1, 2, 1))
"""Of transposed convolutions: inputs first."""


def sets_of(case: Case, shape: Shape) -> tuple[list[list[int]], list[list[int]]]:
    """Elements of each unit, and of each group, by looking at every multi-index."""
    units: dict[Hashable, list[int]] = {}
    groups: dict[Hashable, list[int]] = {}
    for flat, index in enumerate(itertools.product(*map(range, shape))):
        units.setdefault(case.unit(*index), []).append(flat)
        groups.setdefault(case.group(*index), []).append(flat)
    return list(units.values()), list(groups.values())


def to_convolution(weight: Tensor, groups: int) -> Tensor:
    """A transposed convolution's weight in a convolution's layout: (out, in / groups, kernel)."""
    return torch.cat([part.transpose(0, 1) for part in weight.chunk(groups)])


def transposed_fits() -> list[tuple[str, int, Shape]]:
    """Structures on transposed convolutions: name, groups, shape."""
    found = []
    for name, case in CASES.items():
        for shape, groups in itertools.product(TRANSPOSED_SHAPES, (1, 2, 4)):
            try:
                Transposed(case.structure, groups).check(shape)
            except SparsityError:
                continue
            found.append((name, groups, shape))
    return found


TRANSPOSED_FITS = transposed_fits()
