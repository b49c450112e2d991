"""Layer sparsities that published codes print, for networks that their papers use."""

import itertools
import math
import re

import pytest
from reference_models import torchvision_model, weight_shapes, wide_resnet

from regrow.allocation import allocate, allocate_counts, erdos_renyi, erdos_renyi_kernel, uniform

# Of google-research/rigl's `get_sparsities`; "first 1x1" is conv1 of a stage's first block, "1x1"
# stands for the other conv1 and for conv3, and "shortcut" for the downsampling convolution.
RESNET50 = {
    0.8: {
        "conv1": 0.1428,
        "fc": 0.8518,
        1: {"3x3": 0.6381, "1x1": 0.0, "first 1x1": 0.0, "shortcut": 0.0},
        2: {"3x3": 0.8231, "1x1": 0.0247, "first 1x1": 0.0, "shortcut": 0.4151},
        3: {"3x3": 0.9126, "1x1": 0.5131, "first 1x1": 0.4151, "shortcut": 0.7079},
        4: {"3x3": 0.9565, "1x1": 0.7567, "first 1x1": 0.7079, "shortcut": 0.8541},
    },
    0.9: {
        "conv1": 0.5800,
        "fc": 0.9274,
        1: {"3x3": 0.8227, "1x1": 0.0412, "first 1x1": 0.0, "shortcut": 0.0412},
        2: {"3x3": 0.9133, "1x1": 0.5221, "first 1x1": 0.4253, "shortcut": 0.7134},
        3: {"3x3": 0.9572, "1x1": 0.7614, "first 1x1": 0.7134, "shortcut": 0.8569},
        4: {"3x3": 0.9787, "1x1": 0.8808, "first 1x1": 0.8569, "shortcut": 0.9285},
    },
}
N_DENSE = {0.8: 8, 0.9: 1, 0.95: 0, 0.965: 0, 0.98: 0, 0.99: 0}


@pytest.fixture(scope="module")
def resnet50():
    return weight_shapes(torchvision_model("resnet50"))


def in_table(table, name):
    if (place := re.match(r"layer(\d)\.(\d)\.(conv\d|downsample)", name)) is None:
        return table[name.partition(".")[0]]
    stage, block, part = place.groups()
    if part == "conv2":
        return table[int(stage)]["3x3"]
    if part == "downsample":
        return table[int(stage)]["shortcut"]
    return table[int(stage)]["first 1x1" if (block, part) == ("0", "conv1") else "1x1"]


def test_resnet50_has_its_weights(resnet50):
    assert sum(math.prod(shape) for shape in resnet50.values()) == 25_502_912
    assert len(resnet50) == 54


@pytest.mark.parametrize("sparsity", RESNET50)
def test_resnet50_layer_by_layer(resnet50, sparsity):
    for name, found in allocate(resnet50, sparsity).items():
        assert found == pytest.approx(in_table(RESNET50[sparsity], name), abs=1e-4), name


@pytest.mark.parametrize(("sparsity", "scale"), [(0.8, 99.5617), (0.9, 48.7866)])
def test_resnet50_scale(resnet50, sparsity, scale):
    shape = resnet50["fc.weight"]
    density = 1 - allocate(resnet50, sparsity)["fc.weight"]
    assert density * math.prod(shape) / sum(shape) == pytest.approx(scale, abs=5e-5)


@pytest.mark.parametrize("sparsity", N_DENSE)
def test_resnet50_full_layers(resnet50, sparsity):
    found = allocate(resnet50, sparsity)
    assert sum(value == 0 for value in found.values()) == N_DENSE[sparsity]
    counts = allocate_counts(resnet50, sparsity, erdos_renyi_kernel())
    full = [name for name, shape in resnet50.items() if counts[name] == math.prod(shape)]
    assert len(full) == N_DENSE[sparsity]
    assert sum(counts.values()) == round(25_502_912 * (1 - sparsity))


@pytest.mark.parametrize(("sparsity", "n_dense"), [(0.5, 12), (0.8, 5), (0.9, 4), (0.95, 3)])
def test_wide_resnet_22_2_full_layers(sparsity, n_dense):
    found = allocate(weight_shapes(wide_resnet(22, 2)), sparsity)
    assert sum(value == 0 for value in found.values()) == n_dense


def test_wide_resnet_28_10():
    """36,461,232 weights, 6 layers full at 0.8 (FreeTickets, SNFS)."""
    shapes = weight_shapes(wide_resnet(28, 10))
    assert sum(math.prod(shape) for shape in shapes.values()) == 36_461_232
    assert sum(value == 0 for value in allocate(shapes, 0.8).values()) == 6


def perceptron(*sizes):
    return {f"fc{i}": (out, n) for i, (n, out) in enumerate(itertools.pairwise(sizes))}


@pytest.mark.parametrize(
    ("sizes", "epsilon", "densities"),
    [
        ((3072, 4000, 1000, 4000), 20, (0.01151, 0.025, 0.025)),
        ((3312, 3000, 3000, 3000), 20, (0.01271, 0.01333, 0.01333)),
        ((784, 1000, 1000, 1000), 20, (0.04551, 0.04, 0.04)),
        ((784, 1000, 1000, 1000), 13, (0.02958, 0.026, 0.026)),
        ((500, 1000, 1000, 1000, 2), 1, (0.003, 0.002, 0.002, 0.501)),
    ],
)
def test_set_perceptrons(sizes, epsilon, densities):
    found = allocate(perceptron(*sizes), None, erdos_renyi(epsilon=epsilon))
    assert [1 - value for value in found.values()] == pytest.approx(densities, abs=5e-6)


def test_set_counts_are_epsilon_times_in_plus_out():
    counts = allocate_counts(perceptron(3072, 4000, 1000, 4000), None, erdos_renyi(epsilon=20))
    assert list(counts.values()) == [20 * 7072, 20 * 5000, 20 * 5000]
    assert sum(counts.values()) == 341_440


def vgg16_bn():
    model = torchvision_model("vgg16_bn", num_classes=10)
    shapes = weight_shapes(model.features) | {"fc": (10, 512)}
    assert len(shapes) == 14
    return shapes


def resnet34():
    return weight_shapes(torchvision_model("resnet34", num_classes=100)) | {
        "conv1.weight": (64, 3, 3, 3)
    }


def efficientnet_b0():
    return weight_shapes(torchvision_model("efficientnet_b0", num_classes=200))


def deit_b():
    shapes = weight_shapes(torchvision_model("vit_b_16"))
    return {name: shape for name, shape in shapes.items() if "embedding" not in name}


@pytest.mark.parametrize(
    ("make", "n_weights", "sparse_layers"),
    [
        (vgg16_bn, 14.72, {0.1: (5, 0.875), 0.3: (6, 0.631), 0.5: (8, 0.426), 0.7: (9, 0.246)}),
        (resnet34, 21.31, {0.1: (5, 0.819), 0.3: (17, 0.491), 0.5: (17, 0.331), 0.7: (25, 0.185)}),
        (efficientnet_b0, 4.21, {0.1: (10, 0.605), 0.3: (11, 0.381), 0.5: (23, 0.217)}),
        (deit_b, 86.29, {0.3: (38, 0.552), 0.5: (50, 0.392), 0.7: (50, 0.235)}),
    ],
)
def test_at_low_sparsity_few_layers_are_sparse(make, n_weights, sparse_layers):
    """Number of sparse layers and density of the sparsest, counted with an independent solver."""
    shapes = make()
    assert sum(math.prod(s) for s in shapes.values()) / 1e6 == pytest.approx(n_weights, abs=0.005)
    for sparsity, (n_sparse, least_dense) in sparse_layers.items():
        found = allocate(shapes, sparsity)
        assert sum(value > 0 for value in found.values()) == n_sparse, sparsity
        assert 1 - max(found.values()) == pytest.approx(least_dense, abs=6e-4), sparsity


def test_at_low_sparsity_three_layers_of_resnet50_are_sparse(resnet50):
    for sparsity, n_sparse, least in ((0.1, 3, 0.640), (0.3, 11, 0.252), (0.5, 22, 0.133)):
        found = allocate(resnet50, sparsity)
        assert sum(value > 0 for value in found.values()) == n_sparse
        assert 1 - max(found.values()) == pytest.approx(least, abs=6e-4)
    sparse = [name for name, value in allocate(resnet50, 0.1).items() if value > 0]
    assert sparse == [f"layer4.{i}.conv2.weight" for i in range(3)]


def test_uniform_leaves_the_first_layer(resnet50):
    found = allocate(resnet50, 0.9, uniform(first_layer_dense=True))
    assert [name for name, value in found.items() if value != 0.9] == ["conv1.weight"]
