"""All-ReLU as the paper defines it; dropout by seeds."""

import copy
import pickle

import pytest
import torch

from regrow.systems.truly_sparse import AllReLU, SeededDropout


@pytest.mark.parametrize("layer", [1, 2, 3, 4])
@pytest.mark.parametrize("slope", [0.0, 0.6, 1.0])
def test_the_negative_side_alternates(layer, slope):
    x = torch.tensor([-3.0, -1.0, 0.0, 2.0, 5.0], dtype=torch.float64)
    sign = -1 if layer in (1, 3) else 1
    expected = [v if v > 0 else sign * slope * v for v in x.tolist()]
    assert AllReLU(slope, layer=layer)(x).tolist() == pytest.approx(expected)


def test_gradient():
    x = torch.tensor([-2.0, 3.0], dtype=torch.float64, requires_grad=True)
    for layer, below in ((1, -0.6), (2, 0.6)):
        (grad,) = torch.autograd.grad(AllReLU(0.6, layer=layer)(x).sum(), x)
        assert grad.tolist() == pytest.approx([below, 1.0])


def test_memory_order_is_kept():
    x = torch.randn(5, 3).t()
    assert AllReLU(layer=1)(x).stride() == x.stride()
    assert SeededDropout(0.5)(x).stride() == x.stride()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"slope": 1.5, "layer": 1}, "slope"), ({"layer": 0}, "layer"), ({"layer": 1.0}, "layer")],
)
def test_arguments_are_checked(arguments, error):
    with pytest.raises((TypeError, ValueError), match=error):
        AllReLU(**arguments)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.8])
def test_dropout_drops_its_share_and_keeps_the_mean(p):
    y = SeededDropout(p, seed=3)(torch.ones(400, 501, dtype=torch.float64))
    assert (y == 0).double().mean().item() == pytest.approx(p, abs=0.005)
    assert y.mean().item() == pytest.approx(1, abs=0.02)
    kept = y[y != 0].unique()
    assert len(kept) == 1
    assert kept.item() == pytest.approx(1 / (1 - p), rel=1e-4)
    # Neither samples nor features are dropped together.
    assert (y == 0).double().mean(0).std() < 3 * (p * (1 - p) / 400) ** 0.5
    assert (y == 0).double().mean(1).std() < 3 * (p * (1 - p) / 501) ** 0.5


def test_draws_depend_on_the_seed_alone_and_go_on():
    x, state = torch.ones(8, 64), torch.get_rng_state()
    one, same, other = SeededDropout(0.5), SeededDropout(0.5), SeededDropout(0.5, seed=1)
    first, second = one(x), one(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, second)
    assert torch.equal(first, same(x))
    assert not torch.equal(first, other(x))
    assert torch.equal(first, SeededDropout(0.5)(x.t().contiguous().t()))
    one.restart(0)
    assert torch.equal(one(x), first)
    one.restart(7, 2)
    assert not torch.equal(one(x), first)


def test_dropout_in_evaluation_and_in_copies():
    module, x = SeededDropout(0.5), torch.ones(4, 4)
    first = module(x)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), first)
    assert module.eval()(x) is x
    assert SeededDropout(0.0)(x) is x
