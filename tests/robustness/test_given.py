import numpy as np
import pytest

from regrow.data import load
from regrow.robustness._given import as_image_data, as_model, as_tuple
from regrow.robustness._recipes import default_recipe


def test_arrays_become_a_data_set(arrays):
    data = as_image_data(*arrays, name="bars", classes=None, flip=True)
    assert (data.name, data.classes, data.flip) == ("bars", ("0", "1", "2", "3"), True)
    assert (data.train_images == arrays[0][0]).all()
    assert data.mean == pytest.approx(arrays[0][0].reshape(-1, 3).mean(0) / 255)
    named = as_image_data(*arrays, name="b", classes=["a", "b", "c", "d", "e"], flip=False)
    assert named.n_classes == 5


def test_a_data_set_is_taken_as_it_is(arrays):
    data = load("digits", train_samples=20, test_samples=10)
    assert as_image_data(data, None, name="x", classes=None, flip=False) is data
    with pytest.raises(ValueError, match="leave test, classes and flip out"):
        as_image_data(data, arrays[1], name="x", classes=None, flip=False)


@pytest.mark.parametrize(
    ("train", "kind", "message"),
    [
        (np.zeros((4, 32, 32, 3), np.uint8), TypeError, r"train must be \(images, labels\)"),
        ((np.zeros((4, 32, 32, 3)), np.zeros(4, int)), TypeError, "uint8"),
        ((np.ones((4, 32, 32, 3), np.uint8), np.arange(5)), ValueError, "labels of train"),
    ],
)
def test_bad_arrays_are_refused(arrays, train, kind, message):
    with pytest.raises(kind, match=message):
        as_image_data(train, arrays[1], name="x", classes=None, flip=False)


def test_models_by_name_and_by_function(net):
    name, build = as_model("small-cnn")
    assert name == "small-cnn"
    assert build(3).training
    name, build = as_model(net)
    assert name.endswith(":tiny_net")
    assert build is net


def test_one_value_or_several():
    assert as_tuple(0.5, (int, float)) == (0.5,)
    assert as_tuple([1, 2], int) == as_tuple(range(1, 3), int) == (1, 2)
    assert as_tuple("set", str) == ("set",)
    with pytest.raises(TypeError, match="one value or a list"):
        as_tuple({1: 2}, int)


def test_recipes():
    assert default_recipe("digits", flip=False).n_steps(1297) == 300
    cifar = default_recipe("cifar100", flip=True)
    assert (cifar.epochs, cifar.batch_size, cifar.lr, cifar.weight_decay) == (200, 128, 0.1, 5e-4)
    assert cifar.flip
    assert default_recipe("npz", flip=False) == default_recipe("imagefolder", flip=False)
    changed = default_recipe("mnist", flip=False, epochs=2, batch_size=7, lr=0.3)
    assert (changed.epochs, changed.batch_size, changed.lr) == (2, 7, 0.3)
    with pytest.raises(ValueError, match="epochs"):
        default_recipe("mnist", flip=False, epochs=0)
