"""Bytes that are held, and the most that are held at a time."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

MARK = "what is watched"


def live_bytes() -> int:
    """Of all storages of tensors that can be reached."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if type(one) in (Tensor, nn.Parameter)]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage() for one in tensors}
    return sum(storage.nbytes() for storage in storages.values())


class Peak(NamedTuple):
    """The most bytes at a time above those held before: torch's, and those of Python and numpy.

    Each is a peak of its own: together they take at most the sum.
    """

    torch: int
    python: int


def peak_above_held(build: Callable[[], Callable[[], object]]) -> Peak:
    """The memory that a function needs for a time.

    Torch's is that of its CPU allocator, event by event, temporaries of its operations included.

    Args:
        build: Makes all that the function works on, and returns the function, which is called once.
            (What was allocated before this would not be seen to be freed.)
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function = build()
        gc.collect()
        tracemalloc.start()
        try:
            with record_function(MARK):
                function()
            python = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    events = profiled.profiler.kineto_results.events()
    mark = next(event for event in events if event.name() == MARK)
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = most = 0
    for at, change in changes:
        if mark.start_ns() <= at <= mark.end_ns():
            now += change
            most = max(most, now)
    return Peak(most, python)
