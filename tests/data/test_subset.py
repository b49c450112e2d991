from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.data._subset import stratified

label_lists = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)


def seats(counts: dict[int, int], n_samples: int) -> dict[int, int]:
    """Webster's rule, seat by seat, after one seat for each class."""
    given_out = dict.fromkeys(counts, 1)
    for _ in range(n_samples - len(counts)):
        open_classes = [c for c in counts if given_out[c] < counts[c]]
        winner = max(open_classes, key=lambda c: (Fraction(counts[c], 2 * given_out[c] + 1), -c))
        given_out[winner] += 1
    return given_out


@given(label_lists, st.data())
def test_counts_follow_the_shares(labels, data):
    counts = {int(c): int((labels == c).sum()) for c in np.unique(labels)}
    n_samples = data.draw(st.integers(len(counts), len(labels)))
    chosen = stratified(labels, n_samples, name="x")
    assert chosen.dtype == np.int64
    assert len(chosen) == n_samples
    assert (np.diff(chosen) > 0).all()
    assert {c: int((labels[chosen] == c).sum()) for c in counts} == seats(counts, n_samples)


@given(label_lists, st.data())
def test_smaller_subsets_lie_in_larger_ones(labels, data):
    least = len(np.unique(labels))
    small = data.draw(st.integers(least, len(labels)))
    large = data.draw(st.integers(small, len(labels)))
    assert set(stratified(labels, small, name="x")) <= set(stratified(labels, large, name="x"))


@given(st.integers(2, 6), st.integers(1, 8), st.data())
def test_balanced_sets_give_balanced_subsets(n_classes, n_each, data):
    labels = np.repeat(np.arange(n_classes), n_each)
    n_samples = data.draw(st.integers(n_classes, n_classes * n_each))
    counts = np.bincount(labels[stratified(labels, n_samples, name="x")])
    assert counts.max() - counts.min() <= 1


def test_choice_is_repeatable_random_and_depends_on_the_name():
    labels = np.arange(400) % 4
    first = stratified(labels, 40, name="cifar10 test")
    np.testing.assert_array_equal(first, stratified(labels, 40, name="cifar10 test"))
    assert not np.array_equal(first, stratified(labels, 40, name="cifar10 train"))
    assert not np.array_equal(first, np.arange(40))
    # Draws come from all over the set: their mean is that of a uniform choice within 4 sigma.
    assert abs(first.mean() - 199.5) < 4 * 400 / np.sqrt(12 * 40)


def test_choice_is_the_published_one():
    """A subset is part of a result: it must not change between releases."""
    labels = np.arange(20) % 2
    np.testing.assert_array_equal(stratified(labels, 6, name="a"), [1, 2, 5, 10, 16, 19])


@pytest.mark.parametrize("n_samples", [2, 7])
def test_impossible_sizes_are_refused(n_samples):
    with pytest.raises(ValueError, match=f"{n_samples} samples.*from 3 .*to 6"):
        stratified(np.array([0, 1, 2, 0, 1, 2]), n_samples, name="x")
