"""Models of torchvision and timm by constructor: sizes, widths, a step of training."""

import inspect
import sys
import types
import warnings

import pytest
import torch
from torch import nn

import regrow
from regrow.errors import SparsityError
from regrow.models import build, constructor, match_parameters

TORCHVISION = "torchvision.models:"
TIMM = "timm.models:"
# As published in torchvision's documentation, and for timm in the papers (5.3 M, 86.6 M).
SIZES = {
    f"{TORCHVISION}efficientnet_b0": 5_288_548,
    f"{TORCHVISION}resnet50": 25_557_032,
    f"{TORCHVISION}mobilenet_v2": 3_504_872,
    f"{TORCHVISION}vgg16_bn": 138_365_992,
    f"{TIMM}efficientnet_b0": 5_288_548,
    f"{TIMM}deit_base_patch16_224": 86_567_656,
}
NARROWER = [f"{TORCHVISION}mobilenet_v2", f"{TORCHVISION}resnet50", f"{TIMM}resnet50"]
WITHOUT_WIDTH = [
    f"{TORCHVISION}efficientnet_b0",
    f"{TORCHVISION}vgg16_bn",
    f"{TORCHVISION}resnet18",  # basic blocks refuse another inner width
    f"{TORCHVISION}wide_resnet50_2",  # fixes its own
    f"{TIMM}deit_base_patch16_224",
]


@pytest.fixture
def installed(request):
    """Skip where the package of the model is absent."""
    package = request.getfixturevalue("name").partition(".")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package's own imports
        pytest.importorskip(package, reason=f"names a model of {package}")


def meta(name, n_classes, **arguments):
    with torch.device("meta"):
        return build(name, n_classes, **arguments)


def n_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("name", "n"), SIZES.items())
def test_published_sizes(name, n):
    assert n_parameters(meta(name, 1000)) == n


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", SIZES)
def test_the_number_of_classes_arrives(name):
    layers = [module for module in meta(name, 17).modules() if isinstance(module, nn.Linear)]
    assert layers[-1].out_features == 17


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", NARROWER)
def test_an_equal_model_is_found(name):
    target = round(0.6 * n_parameters(meta(name, 10)))
    width = match_parameters(constructor(name), 10, target)
    assert isinstance(width, float)
    # Counted without the adapter, through the package's own argument.
    module, _, function = name.partition(":")
    own = {"width_per_group": width}
    if function == "mobilenet_v2":
        own = {"width_mult": width, "round_nearest": 1}
    elif module == "timm.models":
        own = {"base_width": width}
    with torch.device("meta"):
        model = getattr(sys.modules[module], function)(num_classes=10, **own)
    assert n_parameters(model) == pytest.approx(target, rel=5e-3)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", NARROWER)
def test_the_usual_width_changes_nothing(name):
    usual = inspect.signature(constructor(name)).parameters["width"].default
    assert n_parameters(meta(name, 10, width=usual)) == n_parameters(meta(name, 10))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", WITHOUT_WIDTH)
def test_models_without_a_width_are_refused_with_the_reason(name):
    function = name.partition(":")[2]
    reason = rf"{function} takes no argument width, nor width_mult, width_per_group, base_width"
    with pytest.raises(SparsityError, match=reason):
        match_parameters(constructor(name), 10, 1_000_000)
    with pytest.raises(ValueError, match="takes no width"):
        build(name, 10, width=0.5)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", [f"{TORCHVISION}resnet50"])
def test_sizes_that_no_inner_width_reaches_are_refused(name):
    with pytest.raises(SparsityError, match=r"no width of resnet50 gives 2000000 .* nearest"):
        match_parameters(constructor(name), 10, 2_000_000)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "side"),
    [
        (f"{TORCHVISION}efficientnet_b0", 32),
        (f"{TORCHVISION}resnet50", 32),
        (f"{TORCHVISION}mobilenet_v2", 32),
        (f"{TIMM}deit_tiny_patch16_224", 224),  # DeiT-B's architecture, a third as wide
    ],
)
def test_one_step_with_rigl(name, side):
    torch.manual_seed(0)
    model = build(name, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    updater = regrow.rigl(model, optimizer, sparsity=0.5, n_steps=4, interval=1, seed=0)
    before = {key: topology.mask.clone() for key, topology in updater.topologies.items()}
    loss = nn.functional.cross_entropy(model(torch.randn(2, 3, side, side)), torch.tensor([1, 2]))
    loss.backward()
    optimizer.step()
    assert updater.rewirings == 1
    parameters = dict(model.named_parameters())
    assert any((t.mask != before[key]).any() for key, t in updater.topologies.items())
    for key, topology in updater.topologies.items():
        assert not parameters[key][~topology.mask].any()
    assert updater.sparsity == pytest.approx(0.5, abs=1e-4)


@pytest.fixture
def module(monkeypatch):
    """An importable module of somebody else's."""
    module = types.ModuleType("somebodys_models")
    monkeypatch.setitem(sys.modules, "somebodys_models", module)
    return module


def find(module, function):
    module.function = function
    return constructor("somebodys_models:function")


def layers(channels, n_classes):
    return nn.Sequential(nn.Linear(4, channels), nn.Linear(channels, n_classes))


def test_a_width_named_in_the_signature_is_used_with_its_default(module):
    def function(num_classes, width_mult=2.0):
        return layers(int(10 * width_mult), num_classes)

    make = find(module, function)
    assert list(inspect.signature(make).parameters) == ["num_classes", "width_mult", "width"]
    assert inspect.signature(make).parameters["width"].default == 2.0
    assert make(3, width=0.5)[0].out_features == 5
    assert make(3, width_mult=0.5)[0].out_features == 5
    assert match_parameters(make, 3, n_parameters(layers(7, 3)), tolerance=0) == pytest.approx(
        0.7, abs=0.1
    )


def test_width_goes_before_the_other_names(module):
    def function(num_classes, width_mult=2.0, width=3):
        return layers(width, num_classes)

    make = find(module, function)
    assert make(3, width=5)[0].out_features == 5
    assert make(3, width_mult=5.0)[0].out_features == 3


@pytest.mark.parametrize(
    "function",
    [
        lambda num_classes, **rest: layers(8, num_classes),  # takes it and ignores it
        lambda num_classes, **rest: layers(int(8 * rest.get("width_mult", 2)), num_classes),
        lambda num_classes, **rest: layers(8 // (1 - len(rest)), num_classes),
    ],
)
def test_keywords_that_set_no_width_are_not_taken_for_one(module, function):
    make = find(module, function)
    assert "width" not in inspect.signature(make).parameters
    assert make(3)[1].out_features == 3


def test_trying_moves_no_global_generator_and_warns_of_nothing(module):
    def function(num_classes, **rest):
        warnings.warn("somebody else's", stacklevel=2)
        torch.rand(3, device="cpu")
        return layers(int(8 * rest.get("width_mult", 1)), num_classes)

    state = torch.get_rng_state()
    make = find(module, function)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.warns(UserWarning, match="somebody"):
        assert make(3, width=2.0)[0].out_features == 16
