"""Criteria against formulas in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regrow import criteria
from regrow.criteria import Score, _scores, reads_gradient, weighted_sum
from regrow.topology import Topology, select_top


class FakeLayer:
    """A layer that is two lists of numbers, and counts what a criterion reads."""

    name = "fake"
    grad_is_local = False
    has_grad = True
    holds_dense = False

    def __init__(self, weight, grad=None, *, seed=0):
        self.weight = weight
        self.grad = grad
        self.topology = Topology.full(tuple(weight.shape))
        self.generator = torch.Generator().manual_seed(seed)
        self.n_grad_reads = 0
        self.ever_active = torch.zeros(weight.numel(), dtype=torch.bool)

    def weight_at(self, flat):
        return self.weight[flat]

    def grad_at(self, flat):
        self.n_grad_reads += 1
        return self.grad[flat]

    def ever_active_at(self, flat):
        return self.ever_active[flat]

    def state_at(self, key, flat):
        raise AssertionError(f"no criterion here reads {key}")


def everywhere(layer):
    return torch.arange(layer.weight.numel())


FORMULAS = {
    criteria.magnitude: lambda w, g: w.abs(),
    criteria.gradient: lambda w, g: g.abs(),
    criteria.saliency: lambda w, g: (w * g).abs(),
}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("criterion", FORMULAS)
def test_formula_at_positions(criterion, dtype):
    layer = FakeLayer(torch.randn(50).to(dtype), torch.randn(50).to(dtype))
    flat = torch.tensor([3, 49, 0, 17])
    scores = criterion(layer, flat)
    expected = FORMULAS[criterion](layer.weight[flat].double(), layer.grad[flat].double())
    # Products of two halves have more digits than a half: scores must be wider.
    assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-7, atol=0)
    assert reads_gradient(criterion) == (layer.n_grad_reads > 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_of_halves_neither_overflow_nor_vanish(dtype):
    layer = FakeLayer(torch.tensor([300.0, 1e-5]).to(dtype), torch.tensor([300.0, 1e-5]).to(dtype))
    low, high = sorted(criteria.saliency(layer, everywhere(layer)).tolist())
    assert 0 < low < 1e-9
    assert 8e4 < high < math.inf


def test_random_scores_are_uniform_fresh_and_of_the_layers_generator():
    layer = FakeLayer(torch.zeros(20_000), seed=4)
    torch.manual_seed(1)
    scores = criteria.random(layer, everywhere(layer))
    assert scores.dtype == torch.float64
    assert torch.equal(
        scores,
        torch.rand(20_000, generator=torch.Generator().manual_seed(4), dtype=torch.float64),
    )
    cells = (scores * 20).long().bincount(minlength=20)
    assert ((cells - 1000.0) ** 2 / 1000).sum() < 60  # chi square with 19 degrees: 1e-6 lies at 60
    again = criteria.random(layer, everywhere(layer))
    assert not torch.equal(again, scores)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    criteria.random(layer, everywhere(layer))
    assert torch.equal(torch.rand(1), expected)


floats = st.one_of(st.floats(-5, 5, width=32), st.sampled_from([-1.0, 0.0, -0.0, 1.0]))


def drop_lowest(weights, n_dropped):
    layer = FakeLayer(torch.tensor(weights, dtype=torch.float64))
    scores = criteria.signed_magnitude(layer, everywhere(layer))
    kept = set(select_top(scores, None, len(weights) - n_dropped).tolist())
    return [i for i in range(len(weights)) if i not in kept]


@given(st.lists(floats, min_size=1, max_size=50), st.data())
def test_the_same_fraction_of_either_sign_goes(weights, data):
    n_dropped = data.draw(st.integers(0, len(weights)))
    dropped = drop_lowest(weights, n_dropped)
    assert len(dropped) == n_dropped
    for sign in (lambda w: w >= 0, lambda w: w < 0):
        members = [i for i, w in enumerate(weights) if sign(w)]
        gone = [i for i in dropped if sign(weights[i])]
        assert abs(len(gone) - n_dropped * len(members) / len(weights)) <= 1
        # Of each sign the ones nearest to zero.
        stay = [abs(weights[i]) for i in members if i not in gone]
        assert max((abs(weights[i]) for i in gone), default=0) <= min(stay, default=math.inf)


def test_signed_magnitude_by_hand():
    """Two of eight weights: 5 positive and 3 negative ones give one each, the nearest to zero."""
    assert drop_lowest([5.0, 1.0, 2.0, 3.0, 4.0, -30.0, -10.0, -20.0], 2) == [1, 6]
    # Magnitude alone would drop positives 1 and 2; half of each sign is 2 or 3, and 1 or 2.
    assert drop_lowest([5.0, 1.0, 2.0, 3.0, 4.0, -30.0, -10.0, -20.0], 4) in (
        [1, 2, 3, 6],
        [1, 2, 6, 7],
    )


def test_signed_magnitude_of_weights_of_one_sign_is_magnitude():
    for sign in (1.0, -1.0):
        weights = [sign * w for w in (3.0, 1.0, 4.0, 1.5, 9.0)]
        assert drop_lowest(weights, 3) == [0, 1, 3]


@pytest.mark.parametrize("dtype", DTYPES)
def test_signed_magnitude_ranks_by_the_positions_asked_for(dtype):
    layer = FakeLayer(torch.tensor([0.5, -1.0, 2.0, -3.0, 7.0, 8.0]).to(dtype))
    scores = criteria.signed_magnitude(layer, torch.tensor([3, 0, 2, 1]))
    assert scores.tolist() == [0.75, 0.25, 0.75, 0.25]
    assert criteria.signed_magnitude(layer, torch.empty(0, dtype=torch.int64)).tolist() == []


awkward = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-40, -1e-45, math.inf, -math.inf, math.nan])


@given(st.lists(st.one_of(floats, awkward), max_size=60), st.sampled_from([1, 3, 1000]))
def test_signed_magnitude_is_the_rank_of_a_stable_sort(weights, at_once):
    """In float32, which is sorted by keys of its own, few at a time, and in float64."""
    for dtype in (torch.float32, torch.float64):
        tensor = torch.tensor(weights, dtype=dtype)
        wanted = torch.zeros(tensor.numel())
        for side in (tensor >= 0, ~(tensor >= 0)):
            members = side.nonzero().squeeze(1).tolist()
            by_size = sorted(
                members, key=lambda i: abs(weights[i]) if weights[i] == weights[i] else math.inf
            )
            nans = [i for i in by_size if math.isnan(weights[i])]
            for rank, i in enumerate([i for i in by_size if i not in nans] + nans):
                wanted[i] = (rank + 0.5) / len(members)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_scores, "_AT_ONCE", at_once)
            layer = FakeLayer(tensor.unsqueeze(0)) if weights else FakeLayer(torch.zeros(1, 1))
            layer.weight = tensor
            scores = criteria.signed_magnitude(layer, torch.arange(tensor.numel()))
        assert torch.equal(scores, wanted.to(dtype))
        assert torch.equal(tensor.nan_to_num(), torch.tensor(weights, dtype=dtype).nan_to_num())


def test_weighted_sum_is_the_weighted_sum():
    layer = FakeLayer(torch.randn(30, dtype=torch.float64), torch.randn(30, dtype=torch.float64))
    criterion = weighted_sum((criteria.magnitude, 0.25), (criteria.gradient, -3.0))
    flat = torch.tensor([4, 2, 29])
    expected = 0.25 * layer.weight[flat].abs() - 3 * layer.grad[flat].abs()
    torch.testing.assert_close(criterion(layer, flat), expected)
    assert repr(criterion) == "0.25 magnitude + -3 gradient"


def plain(layer, flat):
    return layer.weight_at(flat)


def test_who_reads_gradients():
    magnitude, gradient = criteria.magnitude, criteria.gradient
    assert not reads_gradient(magnitude)
    assert not reads_gradient(criteria.signed_magnitude)
    assert not reads_gradient(criteria.random)
    assert reads_gradient(gradient)
    assert reads_gradient(criteria.saliency)
    assert reads_gradient(plain)
    assert not reads_gradient(Score("own", plain))
    assert reads_gradient(Score("own", plain, reads_gradient=True))
    assert reads_gradient(weighted_sum((magnitude, 1.0), (gradient, 0.1)))
    assert reads_gradient(weighted_sum((magnitude, 1.0), (plain, 1.0)))
    assert not reads_gradient(weighted_sum((magnitude, 1.0), (criteria.random, 2.0)))
    nested = weighted_sum((weighted_sum((gradient, 1.0)), 1.0), (magnitude, 1.0))
    assert reads_gradient(nested)


def test_terms_of_weight_zero_are_not_even_read():
    """MEST's default lambda is 0: it must not cost a dense gradient."""
    criterion = weighted_sum((criteria.magnitude, 1.0), (criteria.gradient, 0.0))
    assert not reads_gradient(criterion)
    layer = FakeLayer(torch.randn(5), None)
    assert torch.equal(criterion(layer, everywhere(layer)), layer.weight.abs())
    assert layer.n_grad_reads == 0


def test_sum_of_nothing():
    with pytest.raises(ValueError, match="at least one"):
        weighted_sum()


def test_scores_have_names():
    assert repr(criteria.magnitude) == "magnitude"
    assert {repr(getattr(criteria, name)) for name in ("gradient", "random", "saliency")} == {
        "gradient", "random", "saliency",
    }  # fmt: skip


def test_what_was_never_active_comes_first():
    """ITOP's option, as a sum: whatever the draws, a new unit lies above one that was active."""
    layer = FakeLayer(torch.zeros(400))
    layer.ever_active[::3] = True
    grow = weighted_sum((criteria.never_active, 1.0), (criteria.random, 1.0))
    assert grow.by_unit
    assert not reads_gradient(grow)
    scores = grow(layer, everywhere(layer))
    assert scores[~layer.ever_active].min() >= 1 > scores[layer.ever_active].max()
    assert scores[~layer.ever_active].unique().numel() > 200


def test_a_product_is_elementwise_and_reads_what_its_factors_read():
    layer = FakeLayer(torch.randn(30), torch.randn(30))
    flat = everywhere(layer)
    both = criteria.product(criteria.magnitude, criteria.gradient)
    torch.testing.assert_close(both(layer, flat), criteria.saliency(layer, flat))
    assert reads_gradient(both)
    assert not both.by_unit
    assert not reads_gradient(criteria.product(criteria.magnitude, criteria.random))
    with pytest.raises(ValueError, match="at least one"):
        criteria.product()
