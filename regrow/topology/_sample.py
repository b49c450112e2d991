"""Uniform draws of places, without a number for each place that was not drawn."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from regrow.errors import SparsityError
from regrow.topology._groups import unit_ranges
from regrow.topology._rows import are_among, merged, without

SCARCE = 16
"""One free place in so many, or fewer: to look at all is then cheaper than to draw and refuse."""
MANY = 8
"""One place in so many to be drawn, or more: a flag a place is then no larger than the result."""


def sample_places(
    n: int,
    k: int,
    *,
    generator: torch.Generator,
    is_free: Callable[[Tensor], Tensor] | None = None,
    n_free: int | None = None,
) -> Tensor:
    """Draw ``k`` of the free places among ``n``, uniformly among all such sets.

    Memory is in proportion to ``k``, and to ``n`` in bits where nearly no place is free. Draws
    depend on the generator, ``n``, ``k`` and which places are free: on nothing else, such as how
    they are known to be free.

    Args:
        n: Places in all, 0 to n - 1.
        k: How many to draw.
        generator: CPU generator; draws advance it.
        is_free: (m,) int64 places -> (m,) bool, both on the CPU; None: all are.
        n_free: How many are; needed with ``is_free``.

    Returns:
        (k,) int64 on the CPU, ascending.

    Raises:
        SparsityError: Fewer than ``k`` are free.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> sample_places(10, 10, generator=generator).tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    n_free = n if n_free is None or is_free is None else n_free
    if not 0 <= k <= n_free:
        raise SparsityError(f"cannot draw {k} of {n_free} free places")
    if is_free is not None and (2 * k > n_free or n_free * SCARCE <= n):
        free = torch.cat([some[is_free(some)] for some in unit_ranges(n)])
        return free[sample_places(n_free, k, generator=generator)]
    if 2 * k > n_free:
        # Those to leave out are the fewer.
        left_out = sample_places(n, n - k, generator=generator)
        return without(torch.arange(n), left_out)
    return _by_refusal(n, k, generator, is_free)


def _by_refusal(
    n: int, k: int, generator: torch.Generator, is_free: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """Draw until ``k`` different free places came up: which they are is uniform."""
    if n <= MANY * k:
        drawn, left = torch.zeros(n, dtype=torch.bool), k
        while left:
            drawn[_draws(n, left, generator, is_free)] = True
            left = k - int(drawn.count_nonzero())
        return drawn.nonzero().squeeze(1)
    found = torch.empty(0, dtype=torch.int64)
    while left := k - found.numel():
        draws = _draws(n, left, generator, is_free)
        first = torch.ones(draws.numel(), dtype=torch.bool)
        torch.ne(draws[1:], draws[:-1], out=first[1:])
        draws = draws[first]
        found = merged(found, draws[~are_among(found, draws)])
    return found


def _draws(
    n: int, m: int, generator: torch.Generator, is_free: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """``m`` places in order, less those not free; never more than are still to be found."""
    draws = torch.rand(m, generator=generator, dtype=torch.float64).mul_(n)
    places = draws.to(torch.int64).clamp_(max=n - 1)
    del draws
    # Numpy sorts in place. (What is asked about in order is found much faster.)
    places.numpy().sort()
    return places if is_free is None else places[is_free(places)]
