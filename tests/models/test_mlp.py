import pytest
import torch
from torch import nn

import regrow
from regrow.models import match_parameters, mlp


def meta(n_classes, **arguments):
    with torch.device("meta"):
        return mlp(n_classes, **arguments)


def n_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_default_is_the_network_of_the_paper():
    model = meta(10)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    sizes = [(layer.in_features, layer.out_features) for layer in layers]
    assert sizes == [(3072, 4000), (4000, 1000), (1000, 4000), (4000, 10)]
    assert n_parameters(model) == 20_328_000 + 2 * 9_000 + 10


@pytest.mark.parametrize(("width", "side"), [((5,), 8), ((3, 4), 4), ([6, 2, 6, 2], 2)])
def test_sizes_add_up(width, side):
    sizes = [3 * side**2, *width]
    n = sum(a * b + 2 * b for a, b in zip(sizes, width, strict=False)) + width[-1] * 7 + 7
    model = mlp(7, width=width, side=side)
    assert n_parameters(model) == n
    assert model(torch.randn(3, 3, side, side)).shape == (3, 7)


def test_every_pixel_counts():
    model = mlp(3, width=(8,), side=4).eval()
    images = torch.randn(1, 3, 4, 4, requires_grad=True)
    model(images).square().sum().backward()
    assert (images.grad != 0).all()


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 32, 32\), got \(3, 64, 64\).*side="):
        mlp(10, width=(2,))(torch.zeros(2, 3, 64, 64))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"width": ()}, ValueError, "width must hold 1"),
        ({"width": (4, 0)}, ValueError, "width must be at least 1"),
        ({"width": (4.0,)}, TypeError, "width must be an integer"),
        ({"width": 64}, TypeError, "width must be a sequence"),
        ({"width": "64"}, TypeError, "width must be a sequence"),
        ({"side": 0}, ValueError, "side must be at least 1"),
        ({"n_classes": 1}, ValueError, "n_classes must be at least 2"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        mlp(**{"n_classes": 10, **arguments})


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9])
def test_an_equal_one_is_found(sparsity):
    target = round((1 - sparsity) * n_parameters(meta(10)))
    width = match_parameters(mlp, 10, target)
    assert n_parameters(meta(10, width=width)) == pytest.approx(target, rel=1e-3)


def test_all_of_its_layers_are_rewired():
    torch.manual_seed(0)
    model = mlp(4, width=(16, 8), side=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = regrow.rigl(model, optimizer, sparsity=0.5, n_steps=4, interval=1, seed=0)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(6, 3, 4, 4)).square().mean().backward()
        optimizer.step()
    assert updater.rewirings > 0
    assert len(updater.topologies) == 3
    total = sum(t.mask.numel() for t in updater.topologies.values())
    assert sum(t.nnz for t in updater.topologies.values()) == round(0.5 * total)
