"""Global generators that depend on a seed inside a block, and are put back after it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from regrow.topology import derived_generator


@contextmanager
def seeded(seed: int, *parts: int | str, device: torch.device) -> Iterator[None]:
    """Run a block under global generators that depend on the arguments only.

    For initial weights and dropout, which read the global generators. Those are put back after.

    Args:
        seed: The run's seed.
        *parts: What the draws are for, as in `regrow.topology.derived_generator`.
        device: The device whose generator is seeded beside the CPU's.
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        value = derived_generator(seed, *parts).initial_seed()
        torch.default_generator.manual_seed(value)
        for each in cuda:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(value)
        yield
