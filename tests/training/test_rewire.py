"""One rewiring: by hand, and against a plain-Python reference over lists."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from regrow.criteria import Score, gradient, magnitude, random, signed_magnitude
from regrow.errors import SparsityError
from regrow.topology import Topology, apply
from regrow.training import MaskedWeight, global_magnitude, per_layer, rewire


@dataclass
class Case:
    """A layer as plain lists."""

    weights: list[float]
    scores: list[float]  # of growth
    active: list[bool]

    @property
    def n(self) -> int:
        return len(self.weights)


def layer_of(case: Case, name: str = "w", *, with_grad: bool = True) -> MaskedWeight:
    weights = [w if a else 0.0 for w, a in zip(case.weights, case.active, strict=True)]
    parameter = nn.Parameter(torch.tensor(weights, dtype=torch.float64).view(1, -1))
    topology = Topology.from_mask(torch.tensor(case.active).view(1, -1))
    layer = MaskedWeight(name, parameter, topology)
    grad = torch.tensor(case.scores, dtype=torch.float64).view(1, -1)
    layer.begin(0, 1, grad if with_grad else None)
    return layer


def ranked(positions: list[int], score: list[float]) -> list[int]:
    """Best first; among equal scores the lower position."""
    return sorted(positions, key=lambda i: (-abs(score[i]), i))


def reference(
    case: Case, n_prune: int, n_drop: int, n_grow: int, regrow: str
) -> tuple[list[int], list[int]]:
    """Dropped and grown, with the semantics written out."""
    active = [i for i in range(case.n) if case.active[i]]
    free = [i for i in range(case.n) if not case.active[i]]
    if not free and not n_prune and n_drop == n_grow:  # what leaves would be what enters
        return [], []
    if regrow == "never":
        while n_grow > len(free) and n_drop:
            n_grow, n_drop = n_grow - 1, n_drop - 1
    order = ranked(active, case.weights)
    kept = order[: len(active) - n_prune - n_drop]
    pruned = order[len(active) - n_prune :]
    dropped = [i for i in active if i not in kept]
    candidates = free if regrow == "never" else free + dropped
    grown = ranked(candidates, case.scores)[:n_grow]
    if regrow == "keep":
        unchanged = [i for i in grown if i in dropped and i not in pruned]
        dropped = [i for i in dropped if i not in unchanged]
        grown = [i for i in grown if i not in unchanged]
    return sorted(dropped), sorted(grown)


# -- by hand ---------------------------------------------------------------------------------

#                        0    1     2    3    4     5    6    7
HAND = Case(
    weights=[0.5, -0.1, 0.9, 0.2, 0.0, 0.0, 0.0, 0.0],
    scores=[9.0, 5.0, 0.0, 1.0, -4.0, 3.0, 0.5, -6.0],
    active=[True, True, True, True, False, False, False, False],
)


def decide(case: Case, fraction: float, regrow: str = "keep") -> tuple[list[int], list[int]]:
    delta = rewire(
        [layer_of(case)], drop=magnitude, grow=gradient, fraction=fraction, regrow=regrow
    )["w"]
    return delta.dropped.tolist(), delta.grown.tolist()


def test_rigl_by_hand() -> None:
    # Two of four go, |-0.1| and |0.2|; the largest gradients outside {0, 2} are 6 at 7, 5 at 1.
    # Position 1 was dropped and is chosen again: nothing happens to it.
    assert decide(HAND, 0.5) == ([3], [7])
    # Starting at zero it is in both lists.
    assert decide(HAND, 0.5, "zero") == ([1, 3], [1, 7])
    # Never chosen again: 4 has the next largest gradient.
    assert decide(HAND, 0.5, "never") == ([1, 3], [4, 7])


def test_fraction_is_rounded_down_but_not_below_a_whole_number() -> None:
    assert decide(HAND, 0.25) == ([1], [7])
    assert decide(HAND, 0.49, "never") == ([1], [7])
    assert decide(HAND, 0.24, "never") == ([], [])
    many = Case([1.0] * 100 + [0.0] * 100, [1.0] * 200, [True] * 100 + [False] * 100)
    dropped, grown = decide(many, 0.29, "never")  # 0.29 * 100 is 28.999999999999996
    assert len(dropped) == len(grown) == 29


def test_ties_keep_and_grow_the_lower_position() -> None:
    tied = Case([1.0] * 4 + [0.0] * 4, [2.0] * 8, [True] * 4 + [False] * 4)
    assert decide(tied, 0.5, "never") == ([2, 3], [4, 5])
    assert decide(tied, 0.5, "keep") == ([], [])  # 2 and 3 come before 4 and 5
    flat = Case([0.0] * 8, [0.0] * 8, [True] * 4 + [False] * 4)
    assert decide(flat, 0.5, "never") == ([2, 3], [4, 5])


def test_everything_may_be_dropped_and_never_limits_to_what_is_free() -> None:
    assert decide(HAND, 1.0, "never") == ([0, 1, 2, 3], [4, 5, 6, 7])
    dense = Case([3.0, 1.0, 2.0, 4.0], [1.0, 5.0, 2.0, 4.0], [True, True, True, False])
    # Two thirds of three are two, but only one place is free.
    assert decide(dense, 2 / 3, "never") == ([1], [3])
    full = Case([3.0, 1.0], [1.0, 5.0], [True, True])
    assert decide(full, 0.5, "never") == ([], [])
    assert decide(full, 0.5, "keep") == ([], [])
    # What leaves would be what enters: to reset it explores nothing.
    assert decide(full, 0.5, "zero") == ([], [])


def test_a_grown_weight_that_is_still_zero_is_active() -> None:
    grown = Case([0.0, 2.0, 1.0, 0.0], [0.0, 0.0, 0.0, 7.0], [True, True, True, False])
    assert decide(grown, 0.34, "never") == ([0], [3])


def test_signed_magnitude_drops_the_same_fraction_of_each_sign() -> None:
    weights = [0.1, 0.2, 0.3, 0.4, -9.0, -8.0, -7.0, -6.0, 0.0, 0.0, 0.0, 0.0]
    case = Case(weights, [0.0] * 12, [True] * 8 + [False] * 4)
    layer = layer_of(case)
    delta = rewire([layer], drop=signed_magnitude, grow=random, fraction=0.5, regrow="never")["w"]
    assert delta.dropped.tolist() == [0, 1, 6, 7]
    assert delta.grown.tolist() == [8, 9, 10, 11]


def test_nan_gradients_are_grown_last() -> None:
    case = Case(
        [2.0, 1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, float("nan"), 0.0, 1.0],
        [True, True, False, False, False],
    )
    assert decide(case, 1.0, "never") == ([0, 1], [3, 4])
    # Where every free place is needed, one with NaN is still a free place.
    full = Case(
        [3.0, 2.0, 1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, float("nan"), 0.0, 1.0],
        [True, True, True, False, False, False],
    )
    assert decide(full, 1.0, "never") == ([0, 1, 2], [3, 4, 5])


def test_a_layer_without_gradient_grows_nothing_and_drops_towards_a_target() -> None:
    with_grad, without = layer_of(HAND, "a"), layer_of(HAND, "b", with_grad=False)
    kept = rewire([with_grad, without], drop=magnitude, grow=gradient, fraction=0.5)
    assert kept["a"].grown.numel()
    assert kept["b"].is_empty
    pruned = rewire(
        [with_grad, without],
        drop=magnitude,
        grow=gradient,
        fraction=0.5,
        budget=global_magnitude(),
        target=12 / 16,
    )
    # Four of eight stay, 0.9 and 0.5 of each; the others go.
    assert pruned["b"].dropped.tolist() == [1, 3]
    assert pruned["b"].grown.numel() == 0
    # Random growth needs no gradient.
    drawn = rewire([without], drop=magnitude, grow=random, fraction=0.5, regrow="never")["b"]
    assert drawn.grown.numel() == drawn.dropped.numel() == 2


def test_pruned_and_chosen_again_starts_at_zero_even_where_others_keep() -> None:
    #                              pruned ---v         v--- dropped to make room
    case = Case(
        [5.0, 4.0, 3.0, 2.0, 1.0, 0.0], [0.0, 0.0, 0.0, 8.0, 9.0, 1.0], [True] * 5 + [False]
    )
    # Down to four of six: position 4 goes. Half of four are dropped: 2 and 3. Two are grown: 4, 3.
    delta = rewire(
        [layer_of(case)],
        drop=magnitude,
        grow=gradient,
        fraction=0.5,
        budget=global_magnitude(),
        target=2 / 6,
    )["w"]
    assert (delta.dropped.tolist(), delta.grown.tolist()) == ([2, 4], [4])


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction must lie in"):
        rewire([layer_of(HAND)], drop=magnitude, grow=gradient, fraction=fraction)


def test_unknown_regrow() -> None:
    with pytest.raises(ValueError, match="regrow must be one of keep, zero, never; got 'again'"):
        rewire([layer_of(HAND)], drop=magnitude, grow=gradient, fraction=0.1, regrow="again")  # type: ignore[arg-type]


def test_per_layer_without_allocation_takes_no_target() -> None:
    with pytest.raises(SparsityError, match="per_layer"):
        rewire([layer_of(HAND)], drop=magnitude, grow=gradient, fraction=0.1, target=0.9)


# -- against the reference -------------------------------------------------------------------

small = st.integers(-3, 3).map(float)  # many ties, many zeros


@st.composite
def cases(draw: st.DrawFn, *, least_active: int = 0) -> Case:
    n = draw(st.integers(max(least_active, 1), 24))
    n_active = draw(st.integers(least_active, n))
    active = draw(st.permutations([True] * n_active + [False] * (n - n_active)))
    return Case(
        draw(st.lists(small, min_size=n, max_size=n)),
        draw(st.lists(small, min_size=n, max_size=n)),
        active,
    )


@settings(max_examples=150, deadline=None)
@given(cases(), st.integers(0, 100), st.sampled_from(["keep", "zero", "never"]))
def test_per_layer_equals_the_reference(case: Case, percent: int, regrow: str) -> None:
    layer = layer_of(case)
    delta = rewire([layer], drop=magnitude, grow=gradient, fraction=percent / 100, regrow=regrow)[
        "w"
    ]
    n_drop = percent * sum(case.active) // 100
    want = reference(weights_zeroed(case), 0, n_drop, n_drop, regrow)
    assert (delta.dropped.tolist(), delta.grown.tolist()) == want
    after = apply(layer.topology, delta)
    assert after.n_active == layer.topology.n_active
    assert torch.equal(layer.topology.active, torch.tensor(case.active)), "nothing was changed"


def weights_zeroed(case: Case) -> Case:
    weights = [w if a else 0.0 for w, a in zip(case.weights, case.active, strict=True)]
    return Case(weights, case.scores, case.active)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(cases(least_active=1), min_size=1, max_size=4),
    st.integers(0, 100),
    st.integers(0, 99),
    st.sampled_from(["keep", "zero", "never"]),
)
def test_global_magnitude_equals_the_reference(
    listed: list[Case], percent: int, target_percent: int, regrow: str
) -> None:
    n_all = sum(case.n for case in listed)
    n_active = sum(sum(case.active) for case in listed)
    total = round(n_all * (1 - target_percent / 100))
    if total < len(listed):
        return  # refused before training begins
    layers = [layer_of(case, f"l{i}") for i, case in enumerate(listed)]
    deltas = rewire(
        layers,
        drop=magnitude,
        grow=gradient,
        fraction=percent / 100,
        budget=global_magnitude(),
        target=target_percent / 100,
        regrow=regrow,
    )
    counts = [sum(case.active) for case in listed]
    if total < n_active:
        counts = keep_globally(listed, total)
    n_after = 0
    for layer, case, count in zip(layers, listed, counts, strict=True):
        n_drop = percent * count // 100
        want = reference(case, sum(case.active) - count, n_drop, n_drop, regrow)
        delta = deltas[layer.name]
        assert (delta.dropped.tolist(), delta.grown.tolist()) == want
        n_after += apply(layer.topology, delta).n_active
    assert n_after == min(total, n_active)


def keep_globally(listed: list[Case], total: int) -> list[int]:
    """How many each layer keeps: its best one, and the best of all others."""
    counts = [1] * len(listed)
    others = []
    for at, case in enumerate(listed):
        order = ranked([i for i in range(case.n) if case.active[i]], case.weights)
        others += [(-abs(case.weights[i]), at, i) for i in order[1:]]
    for _, at, _ in sorted(others)[: total - len(listed)]:
        counts[at] += 1
    return counts


@settings(max_examples=60, deadline=None)
@given(cases(least_active=1), st.integers(0, 100), st.integers(0, 2**31))
def test_random_growth_is_exact_and_derived(case: Case, percent: int, seed: int) -> None:
    def decided(step: int) -> tuple[list[int], list[int]]:
        layer = layer_of(case, with_grad=False)
        layer.begin(seed, step, None)
        delta = rewire(
            [layer], drop=magnitude, grow=random, fraction=percent / 100, regrow="never"
        )["w"]
        assert not set(delta.grown.tolist()) & {i for i in range(case.n) if case.active[i]}
        return delta.dropped.tolist(), delta.grown.tolist()

    first = decided(1)
    torch.rand(3)  # the global generator moves on
    assert decided(1) == first
    n_drop = min(percent * sum(case.active) // 100, case.n - sum(case.active))
    assert len(first[0]) == len(first[1]) == n_drop


def test_random_growth_reaches_every_place_evenly() -> None:
    case = Case([1.0] * 10 + [0.0] * 40, [0.0] * 50, [True] * 10 + [False] * 40)
    hits = torch.zeros(50)
    for step in range(400):
        layer = layer_of(case, with_grad=False)
        layer.begin(0, step, None)
        grown = rewire([layer], drop=magnitude, grow=random, fraction=1.0, regrow="never")[
            "w"
        ].grown
        assert grown.numel() == 10
        hits[grown] += 1
    assert not hits[:10].any()
    # 400 draws with chance 1/4: mean 100, standard deviation 8.7
    assert 60 < hits[10:].min() <= hits[10:].max() < 140


def test_two_layers_of_one_shape_draw_differently() -> None:
    case = Case([1.0] * 30 + [0.0] * 60, [0.0] * 90, [True] * 30 + [False] * 60)
    layers = [layer_of(case, name, with_grad=False) for name in ("a", "b")]
    for layer in layers:
        layer.begin(0, 1, None)
    deltas = rewire(layers, drop=magnitude, grow=random, fraction=0.5, regrow="never")
    assert deltas["a"].grown.tolist() != deltas["b"].grown.tolist()


def test_a_plain_function_is_a_criterion() -> None:
    largest_position = Score("position", lambda layer, flat: flat.double())
    delta = rewire(
        [layer_of(HAND)],
        drop=largest_position,
        grow=largest_position,
        fraction=0.5,
        budget=per_layer(),
    )["w"]
    assert (delta.dropped.tolist(), delta.grown.tolist()) == ([0, 1], [6, 7])
    plain = rewire(
        [layer_of(HAND)],
        drop=lambda layer, flat: -flat,
        grow=lambda layer, flat: flat,
        fraction=0.5,
    )["w"]
    assert (plain.dropped.tolist(), plain.grown.tolist()) == ([2, 3], [6, 7])
