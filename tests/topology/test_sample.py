"""Draws of places: exact, uniform among all sets, and in memory that grows with what is drawn."""

import itertools
import math
import tracemalloc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regrow.errors import SparsityError
from regrow.topology import derived_generator, sample_places


def among(free):
    """The question whether places are free, and its number."""
    flags = torch.as_tensor(free, dtype=torch.bool)
    return {"is_free": lambda some: flags[some], "n_free": int(flags.count_nonzero())}


@given(st.integers(0, 400), st.data())
def test_exactly_so_many_without_repeats(n, data):
    k, seed = data.draw(st.integers(0, n)), data.draw(st.integers(0, 2**32))
    drawn = sample_places(n, k, generator=derived_generator(seed))
    assert drawn.dtype == torch.int64
    assert drawn.shape == (k,)
    assert sorted(set(drawn.tolist())) == drawn.tolist()
    assert all(0 <= place < n for place in drawn.tolist())


@given(st.lists(st.booleans(), min_size=1, max_size=300), st.data())
def test_only_what_is_free(free, data):
    n_free = sum(free)
    k, seed = data.draw(st.integers(0, n_free)), data.draw(st.integers(0, 99))
    drawn = sample_places(len(free), k, generator=derived_generator(seed), **among(free))
    assert sorted(set(drawn.tolist())) == drawn.tolist()
    assert len(drawn) == k
    assert all(free[place] for place in drawn.tolist())


@given(st.integers(1, 300), st.data())
def test_draws_do_not_depend_on_how_free_places_are_known(n, data):
    """By flags, by a list, or by a search: only which are free matters, and how many."""
    free = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    places = free.nonzero().squeeze(1)
    k = data.draw(st.integers(0, places.numel()))
    ways = (lambda some: free[some], lambda some: torch.isin(some, places))
    first, second = (
        sample_places(n, k, generator=derived_generator(3), is_free=way, n_free=places.numel())
        for way in ways
    )
    assert torch.equal(first, second)


def test_the_same_seed_draws_the_same():
    draws = [sample_places(1000, 40, generator=derived_generator(5)) for _ in range(2)]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], sample_places(1000, 40, generator=derived_generator(6)))


FREE = [True, False, True, True, False, True, True, True, False, True]
SCARCE = [place in (3, 40, 90) for place in range(100)]


@pytest.mark.parametrize(
    ("n", "k", "free"),
    [
        (6, 3, None),
        (6, 1, None),
        (6, 5, None),
        (17, 2, None),  # few of many: found by a sort
        (10, 2, FREE),
        (10, 5, FREE),  # most of those that are free
        (100, 1, SCARCE),
        (100, 2, SCARCE),
    ],
)
def test_every_set_is_equally_likely(n, k, free):
    """Chi-square over all sets; the threshold is passed by chance once in a million."""
    sets = list(itertools.combinations([i for i in range(n) if free is None or free[i]], k))
    n_draws = 100 * len(sets)
    seen = dict.fromkeys(sets, 0)
    options = {} if free is None else among(free)
    generator = derived_generator(11, n, k)
    for _ in range(n_draws):
        seen[tuple(sample_places(n, k, generator=generator, **options).tolist())] += 1
    assert len(seen) == len(sets)
    chi2 = sum((count - 100) ** 2 / 100 for count in seen.values())
    freedom = len(sets) - 1
    assert chi2 < freedom + 4.75 * math.sqrt(2 * freedom) + 15
    assert chi2 > freedom - 4.75 * math.sqrt(2 * freedom)


def test_places_are_spread_over_a_large_range():
    n, k = 10**12, 4000
    drawn = sample_places(n, k, generator=derived_generator(2))
    assert drawn.unique().numel() == k
    tenths = torch.bincount((drawn // (n // 10)).clamp(max=9), minlength=10)
    assert int((tenths - k / 10).abs().max()) < 6 * math.sqrt(k / 10)
    low_bits = (drawn % 2).sum()
    assert abs(int(low_bits) - k / 2) < 6 * math.sqrt(k) / 2


@pytest.mark.parametrize(("n", "k"), [(5, 6), (5, -1), (0, 1)])
def test_more_than_there_are(n, k):
    with pytest.raises(SparsityError, match=f"cannot draw {k} of {n} free places"):
        sample_places(n, k, generator=derived_generator(0))


def test_more_than_are_free():
    with pytest.raises(SparsityError, match="cannot draw 8 of 7 free places"):
        sample_places(10, 8, generator=derived_generator(0), **among(FREE))


def test_nothing_and_everything():
    assert sample_places(0, 0, generator=derived_generator(0)).tolist() == []
    assert sample_places(7, 7, generator=derived_generator(0)).tolist() == list(range(7))
    every = sample_places(10, 7, generator=derived_generator(0), **among(FREE))
    assert every.tolist() == [i for i, free in enumerate(FREE) if free]


@pytest.mark.parametrize("share", [0.001, 0.01, 0.2, 0.6])
def test_memory_is_in_proportion_to_what_is_drawn(share):
    """No number for each place: tensors made while drawing, by torch's own count."""
    n = 2_000_000
    k = int(share * n)
    biggest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal biggest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                biggest = max(biggest, result.untyped_storage().nbytes())
            return result

    tracemalloc.start()
    try:
        with Watch():
            sample_places(n, k, generator=derived_generator(0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert biggest <= max(16 * k, 100_000)
    assert peak < 2_000_000
