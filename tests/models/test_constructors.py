import inspect
import sys
import types

import pytest
import torch
from torch import nn

from regrow.models import NAMES, build, constructor, mlp, resnet18, resnet34, small_cnn, vgg16_bn


class Net(nn.Module):
    depth_limit = 4

    def __init__(self, num_classes=3, depth=1):
        super().__init__()
        self.layer = nn.Linear(2, num_classes)
        self.depth = depth


@pytest.fixture
def module(monkeypatch):
    """An importable module of somebody else's."""
    module = types.ModuleType("somebodys_models")
    monkeypatch.setitem(sys.modules, "somebodys_models", module)
    return module


def find(module, function):
    module.function = function
    return constructor("somebodys_models:function")


def test_ours_by_name():
    assert NAMES == ("small-cnn", "resnet18", "resnet34", "vgg16_bn", "mlp")
    assert [constructor(n) for n in NAMES] == [small_cnn, resnet18, resnet34, vgg16_bn, mlp]
    model = build("small-cnn", 7, width=(2, 3, 4))
    assert model.classifier.weight.shape == (7, 4)
    assert build("small-cnn", 7).classifier.weight.shape == (7, 128)


@pytest.mark.parametrize(
    "function",
    [
        lambda n_classes: nn.Linear(2, n_classes),
        lambda num_classes=10: nn.Linear(2, num_classes),
        lambda pretrained=False, num_classes=10: nn.Linear(2 if not pretrained else 0, num_classes),
        lambda classes, hidden=4: nn.Linear(2, classes),
        lambda classes, /, hidden=4: nn.Linear(2, classes),
        lambda n_classes, /: nn.Linear(2, n_classes),
        lambda *, classes: nn.Linear(2, classes),
        lambda pretrained=False, **rest: nn.Linear(2 + 9 * pretrained, rest["num_classes"]),
        lambda *arguments, n_classes=2: nn.Linear(2 + len(arguments), n_classes),
    ],
)
def test_the_number_of_classes_reaches_the_right_argument(module, function):
    model = find(module, function)(6)
    assert model.weight.shape == (6, 2)


def test_classes_are_constructors_too(module):
    make = find(module, Net)
    assert make(6).layer.out_features == 6
    assert not hasattr(make, "depth_limit")


def test_torchvisions_models_can_be_named():
    pytest.importorskip("torchvision", reason="names a model of torchvision")
    with torch.device("meta"):
        model = build("torchvision.models:resnet18", 17)
    assert model.fc.out_features == 17


def test_width_is_passed_on_and_the_signature_shown(module):
    def function(n_classes, *, width=(3,), depth=1):
        return nn.Linear(width[0] * depth, n_classes)

    make = find(module, function)
    assert make(4, width=(5,), depth=2).in_features == 10
    assert list(inspect.signature(make).parameters) == ["n_classes", "width", "depth"]
    assert build("somebodys_models:function", 4, width=(6,)).in_features == 6
    assert build("somebodys_models:function", 4).in_features == 3


def test_width_is_refused_where_the_function_takes_none(module):
    module.function = Net
    with pytest.raises(ValueError, match=r"takes no width, got width=\(4,\)"):
        build("somebodys_models:function", 3, width=(4,))


@pytest.mark.parametrize(
    "function",
    [
        lambda: nn.Linear(2, 2),
        lambda pretrained=False: nn.Linear(2, 2),
        lambda inputs, outputs: nn.Linear(inputs, outputs),
    ],
)
def test_functions_without_a_place_for_the_classes_are_refused(module, function):
    with pytest.raises(ValueError, match=r"expected is a function.*n_classes or num_classes"):
        find(module, function)


def test_further_required_arguments_are_named(module):
    with pytest.raises(ValueError, match="also needs depth, width"):
        find(module, lambda n_classes, depth, *, width: None)


def test_a_model_itself_is_told_the_way(module):
    with pytest.raises(TypeError, match=r"is a Module, a Linear, .*give a function that makes one"):
        find(module, nn.Linear(2, 2))


def test_what_is_not_a_model_is_refused(module):
    with pytest.raises(TypeError, match=r"returned a int, not a torch\.nn\.Module"):
        find(module, lambda n_classes: n_classes)(3)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("resnet50", ValueError, "small-cnn, resnet18, resnet34, vgg16_bn, mlp, or package.module"),
        ("a.b:", ValueError, "package.module:function; got 'a.b:'"),
        (":f", ValueError, "package.module:function; got ':f'"),
        ("no.such.module:f", ValueError, "'no.such.module' cannot be imported.*PYTHONPATH"),
        ("..:f", ValueError, "cannot be imported"),
        ("torch.nn:no_such_name", ValueError, "torch.nn has no 'no_such_name'"),
        ("torch:float32", TypeError, "is a dtype; expected is a function"),
        (None, TypeError, "name must be a text"),
    ],
)
def test_bad_names_are_refused(name, error, message):
    with pytest.raises(error, match=message):
        constructor(name)


def test_initial_values_come_from_the_global_generator():
    torch.manual_seed(5)
    first = build("small-cnn", 10, width=(2, 2, 2)).state_dict()
    torch.manual_seed(5)
    second = build("small-cnn", 10, width=(2, 2, 2)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
