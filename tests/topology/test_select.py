"""select_top and select_top_reference against a sort in plain Python."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import awkward_floats

from regrow.errors import SparsityError
from regrow.topology import _select, select_top, select_top_reference

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def brute_force(scores, k):
    """The k best positions: highest score first, NaN as -inf, then the lower position."""
    values = [-math.inf if isinstance(x, float) and math.isnan(x) else x for x in scores]
    best = sorted(range(len(values)), key=lambda i: (-values[i], i))
    return sorted(best[:k])


def by_reference(scores, k):
    groups = torch.zeros(scores.numel(), dtype=torch.int64)
    return select_top_reference(scores, groups, torch.tensor([k]))


@st.composite
def scores_and_count(draw):
    values = draw(st.lists(awkward_floats, max_size=40))
    scores = torch.tensor(values, dtype=draw(st.sampled_from(FLOATS)))
    return scores, draw(st.integers(0, len(values)))


@given(scores_and_count())
def test_one_group_is_the_brute_force_choice(case):
    scores, k = case
    expected = brute_force(scores.tolist(), k)
    chosen = select_top(scores, None, k)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == expected
    assert by_reference(scores, k).tolist() == expected


@given(st.lists(st.integers(-3, 3), max_size=40), st.data())
def test_integer_scores(values, data):
    k = data.draw(st.integers(0, len(values)))
    scores = torch.tensor(values, dtype=torch.int64)
    assert select_top(scores, None, k).tolist() == brute_force(values, k)


@given(st.lists(st.tuples(awkward_floats, st.integers(0, 3)), max_size=40), st.data())
def test_groups_are_chosen_apart(pairs, data):
    scores = torch.tensor([score for score, _ in pairs], dtype=torch.float64)
    groups = torch.tensor([group for _, group in pairs], dtype=torch.int64)
    members = [[i for i, (_, g) in enumerate(pairs) if g == group] for group in range(4)]
    k = [data.draw(st.integers(0, len(own))) for own in members]
    expected = []
    for own, n in zip(members, k, strict=True):
        expected += [own[i] for i in brute_force([pairs[i][0] for i in own], n)]
    assert select_top(scores, groups, torch.tensor(k)).tolist() == sorted(expected)


@st.composite
def grouped(draw):
    """Scores, groups in any order and of any sizes, some empty, and how many of each."""
    sizes = draw(st.lists(st.integers(0, 7), min_size=1, max_size=6))
    if draw(st.booleans()):  # about one size: as rows of a table
        sizes = [max(sizes)] * len(sizes)
    groups = [g for g, size in enumerate(sizes) for _ in range(size)]
    order = draw(st.sampled_from(["sorted", "strided", "mixed"]))
    if order == "strided":  # as kernel positions lie in a convolution: 0 1 2 0 1 2 ...
        rows = itertools.zip_longest(*([g] * size for g, size in enumerate(sizes)))
        groups = [g for row in rows for g in row if g is not None]
    elif order == "mixed":
        groups = draw(st.permutations(groups))
    n = len(groups)
    scores = draw(st.lists(awkward_floats, min_size=n, max_size=n))
    k = [draw(st.integers(0, size)) for size in sizes]
    return (
        torch.tensor(scores, dtype=draw(st.sampled_from(FLOATS))),
        torch.tensor(groups, dtype=torch.int64),
        torch.tensor(k),
    )


@settings(max_examples=300)
@given(grouped())
def test_groups_as_rows_of_a_table_are_the_reference(case):
    scores, groups, k = case
    chosen = select_top(scores, groups, k)
    assert chosen.dtype == torch.int64
    assert torch.equal(chosen, select_top_reference(scores, groups, k))
    by_hand = []
    for g, n in enumerate(k.tolist()):
        own = (groups == g).nonzero().squeeze(1).tolist()
        by_hand += [own[i] for i in brute_force(scores[own].tolist(), n)]
    assert chosen.tolist() == sorted(by_hand)


def test_both_ways_are_taken(monkeypatch):
    """Groups of one size are rows; one long group among many short ones is not."""
    seen = []
    plain = select_top_reference
    monkeypatch.setattr(
        _select, "select_top_reference", lambda *a: seen.append(a[0].numel()) or plain(*a)
    )
    even = torch.arange(12) // 3
    select_top(torch.rand(12), even, torch.ones(4, dtype=torch.int64))
    assert not seen
    uneven = torch.cat([torch.zeros(20, dtype=torch.int64), torch.arange(1, 10)])
    select_top(torch.rand(29), uneven, torch.ones(10, dtype=torch.int64))
    assert seen == [29]
    select_top(torch.arange(12), even, torch.ones(4, dtype=torch.int64))
    assert seen == [29, 12], "whole numbers have no -inf to pad with"


def test_no_scores_at_all():
    none = torch.empty(0)
    empty = torch.empty(0, dtype=torch.int64)
    assert select_top(none, empty, torch.zeros(3, dtype=torch.int64)).tolist() == []
    assert select_top(none, empty, empty).tolist() == []


def test_groups_need_a_count_each():
    with pytest.raises(SparsityError, match="one entry for each group"):
        select_top(torch.rand(4), torch.tensor([0, 0, 1, 1]), 1)


@given(scores_and_count())
def test_scores_are_left_as_they_were(case):
    scores, k = case
    before = scores.clone()
    select_top(scores, None, k)
    assert torch.equal(scores.nan_to_num(nan=7.0), before.nan_to_num(nan=7.0))


@given(scores_and_count(), st.integers(1, 6))
def test_cutting_at_a_sampled_bound_changes_nothing(case, n_sampled):
    """Whatever the sample says: here it is tiny, and sees anything but the typical scores."""
    scores, k = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_select, "_SAMPLE_FROM", n_sampled)
        patch.setattr(_select, "_SAMPLE", n_sampled)
        assert select_top(scores, None, k).tolist() == brute_force(scores.tolist(), k)


N_LARGE = _select._SAMPLE_FROM + 12_345
STRIDE = N_LARGE // _select._SAMPLE


def large(name):
    n = N_LARGE
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn(n, generator=generator)
    ramp = torch.arange(n, dtype=torch.float32)
    on_sample = torch.zeros(n, dtype=torch.bool)
    on_sample[::STRIDE] = True
    return {
        "normal": lambda: normal,
        "rounded, many ties": lambda: normal.round(decimals=1),
        "ascending": lambda: ramp,
        "descending": lambda: -ramp,
        "constant": lambda: torch.ones(n),
        "mostly zero": lambda: torch.where(normal > 3, normal, torch.zeros(())),
        "all NaN": lambda: torch.full((n,), torch.nan),
        "half NaN": lambda: torch.where(normal > 0, normal, torch.tensor(torch.nan)),
        "half inf": lambda: torch.where(normal > 0, torch.tensor(torch.inf), normal),
        "sample sees the best only": lambda: torch.where(on_sample, normal + 100, normal),
        "sample sees the worst only": lambda: torch.where(on_sample, normal - 100, normal),
        "best in one run": lambda: torch.where(ramp > n - 5000, normal + 100, normal),
    }[name]()


LARGE = [
    "normal", "rounded, many ties", "ascending", "descending", "constant", "mostly zero", "all NaN",
    "half NaN", "half inf", "sample sees the best only", "sample sees the worst only",
    "best in one run",
]  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_large_inputs(name):
    scores = large(name)
    order = torch.sort(scores.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf),
                       descending=True, stable=True).indices  # fmt: skip
    for k in (0, 1, N_LARGE // 100, N_LARGE // 10, N_LARGE // 2 - 1, N_LARGE - 1):
        expected = order[:k].sort().values
        assert torch.equal(select_top(scores, None, k), expected), k
    assert torch.equal(select_top(scores, None, N_LARGE), torch.arange(N_LARGE))


def test_large_inputs_are_cut_before_the_exact_search(monkeypatch):
    """Else the tests of large inputs would test the plain path twice."""
    searched = []
    partition = np.partition
    monkeypatch.setattr(np, "partition", lambda x, k: searched.append(x.size) or partition(x, k))
    select_top(large("normal"), None, N_LARGE // 100)
    assert searched
    assert searched[0] < N_LARGE // 20


def test_all_elements_and_none():
    scores = torch.tensor([math.nan, 1.0, -math.inf])
    assert select_top(scores, None, 0).tolist() == []
    assert select_top(scores, None, 3).tolist() == [0, 1, 2]
    assert select_top(torch.empty(0), None, 0).tolist() == []


@pytest.mark.parametrize("k", [-1, 4])
def test_too_many_or_negative(k):
    with pytest.raises(SparsityError, match=f"{k} of 3"):
        select_top(torch.zeros(3), None, k)


@pytest.mark.parametrize("k", [[1, 2], [-1, 1], [1], [1, 1, 1]])
def test_counts_that_no_group_can_give(k):
    groups = torch.tensor([0, 0, 1])
    with pytest.raises(SparsityError, match=r"scores of group|entries for"):
        select_top(torch.zeros(3), groups, torch.tensor(k))


def test_unknown_tie_rule():
    with pytest.raises(ValueError, match="lower_index"):
        select_top(torch.zeros(3), None, 1, tie="higher_index")


@pytest.mark.gpu
@pytest.mark.parametrize("name", LARGE)
def test_on_a_gpu_as_on_the_cpu(name):
    scores = large(name)
    for k in (1, N_LARGE // 10, N_LARGE // 2):
        on_gpu = select_top(scores.cuda(), None, k)
        assert torch.equal(on_gpu.cpu(), select_top(scores, None, k))
