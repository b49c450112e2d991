"""The block that a task gets, as Python writes it; ``_blocks`` has how kernels read it.

A block is the number of parts, then the parts, each a header and the entries that its kind needs.
The counters in the header start at zero, so a block is good for one call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple, final

from torch import Tensor

HEADER = 5
"""Entries of a header: size of the part, its kind, units of the part before to wait for, units
finished, units claimed. A part's functions count its entries from the last one of these."""
SIZE, KIND, AWAITED, FINISHED, CLAIMED = range(1 - HEADER, 1)
TILES, GATHER, PRODUCT, SAMPLED = range(4)
"""Kinds of parts: samples in another order, values in another order, the two products."""


@final
class Part(NamedTuple):
    """Some work of one kind.

    Args:
        kind: TILES, GATHER, PRODUCT or SAMPLED.
        entries: What its kind needs: numbers, and tensors, of which kernels get the address.
        n_units: How many units the next part must wait for, because it reads what they write.
    """

    kind: int
    entries: Sequence[int | Tensor]
    n_units: int = 0


def block_of(parts: Sequence[Part]) -> Any:  # noqa: ANN401 - an array of ctypes
    """The block of these parts, one after the other."""
    numbers, awaited = [len(parts)], 0
    for kind, entries, n_units in parts:
        numbers += (HEADER + len(entries), kind, awaited, 0, 0)
        # (Not the other way round: Tensor has an ``isinstance`` of its own, which takes its time.)
        numbers += [one if isinstance(one, int) else one.data_ptr() for one in entries]
        awaited = n_units
    return (ctypes.c_int64 * len(numbers))(*numbers)
