"""How many threads a study computes with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from regrow._checks import check_count


@contextmanager
def using_threads(n: int) -> Iterator[None]:
    """Let torch compute with ``n`` threads inside a block, and with as many as before after it.

    Sums are rounded in an order that depends on the number of threads, so a study that is to end
    with the same numbers must keep it when it is resumed.

    Args:
        n: Threads, at least 1.
    """
    check_count(n, "n")
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
