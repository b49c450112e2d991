"""FLOPs and sizes that papers print.

Sources: Evci et al. 2020, tables and code (google-research/rigl); the notebook of SRigL (Lasby et
al. 2023) for densities .0625 and .25 and for counts by fvcore; the reproducibility report of RigL
(Sundar and Dwaraknath 2021) for WRN-22-2.
"""

import pytest
import torch
from reference_models import torchvision_model, weight_shapes, wide_resnet

from regrow.accounting import count
from regrow.allocation import allocate, allocate_counts, erdos_renyi, erdos_renyi_kernel, uniform
from regrow.topology import Topology

DENSE = 8_189_482_496


class OnMeta:
    def __init__(self, model, side):
        self.model = model
        self.shapes = weight_shapes(model)
        self.inputs = torch.empty(1, 3, side, side, device="meta")

    def count(self, topologies, convention="micronet"):
        return count(self.model, self.inputs, topologies, convention=convention)

    def under(self, rule, sparsity, convention="micronet"):
        return self.count(allocate(self.shapes, sparsity, rule), convention)


@pytest.fixture(scope="module")
def resnet50():
    return OnMeta(torchvision_model("resnet50"), 224)


def test_resnet50_dense(resnet50):
    micronet, mac2 = resnet50.count({}), resnet50.count({}, "mac2")
    assert micronet.dense_forward_flops == micronet.forward_flops == DENSE
    assert mac2.dense_forward_flops == 8_178_368_512
    assert micronet.dense_bytes / 1e6 == pytest.approx(102.122, abs=5e-4)
    assert mac2.dense_bytes == 4 * 25_557_032
    # 32,000 steps of batch 4096: 3.2e18 in the paper.
    assert micronet.dense_training_flops * 32_000 * 4096 == pytest.approx(3.2e18, rel=0.01)


ERK = {
    0.8: 3_395_291_627,
    0.9: 1_988_961_490,
    0.965: 707_694_236,
    0.98: 409_162_629,
}


@pytest.mark.parametrize("sparsity", ERK)
def test_resnet50_erk_to_the_last_flop(resnet50, sparsity):
    assert resnet50.under("erdos_renyi_kernel", sparsity).forward_flops == ERK[sparsity]


@pytest.mark.parametrize(("density", "flops"), [(0.0625, 1.254965e9), (0.25, 3.903734e9)])
def test_resnet50_erk_at_the_densities_of_srigl(resnet50, density, flops):
    report = resnet50.under("erdos_renyi_kernel", 1 - density)
    assert report.forward_flops == pytest.approx(flops, abs=500)


@pytest.mark.parametrize(("density", "ratio"), [(0.1, 0.241839), (0.2, 0.413796)])
def test_resnet50_erk_as_fvcore_counts(resnet50, density, ratio):
    report = resnet50.under("erdos_renyi_kernel", 1 - density, "mac2")
    assert report.forward_flops / report.dense_forward_flops == pytest.approx(ratio, abs=1e-6)


@pytest.mark.parametrize("sparsity", ERK)
def test_whole_numbers_of_connections_cost_as_much(resnet50, sparsity):
    counts = allocate_counts(resnet50.shapes, sparsity, erdos_renyi_kernel())
    topologies = {}
    for name, shape in resnet50.shapes.items():
        active = torch.zeros(torch.Size(shape).numel(), dtype=torch.bool)
        active[: counts[name]] = True
        topologies[name] = Topology.from_active(active, shape)
    report = resnet50.count(topologies)
    assert report.forward_flops == pytest.approx(ERK[sparsity], rel=2e-4)
    assert report.nnz == sum(counts.values())


@pytest.mark.parametrize(
    ("sparsity", "test", "train"), [(0.8, 0.4146, 0.4165), (0.9, 0.2429, 0.2454),
                                    (0.965, 0.0864, 0.0894), (0.98, 0.0500, 0.0531)]
)  # fmt: skip
def test_resnet50_rigl_with_erk(resnet50, sparsity, test, train):
    report = resnet50.under("erdos_renyi_kernel", sparsity)
    assert report.forward_flops / DENSE == pytest.approx(test, abs=5e-5)
    assert report.mean_training_flops(100) / (3 * DENSE) == pytest.approx(train, abs=5e-5)


@pytest.mark.parametrize(
    ("sparsity", "test", "train"), [(0.8, 0.2241, 0.2267), (0.9, 0.1272, 0.1300),
                                    (0.95, 0.0787, 0.0817), (0.965, 0.0641, 0.0672)]
)  # fmt: skip
def test_resnet50_rigl_with_uniform(resnet50, sparsity, test, train):
    report = resnet50.under(uniform(first_layer_dense=True), sparsity)
    assert report.forward_flops / DENSE == pytest.approx(test, abs=5e-5)
    assert report.mean_training_flops(100) / (3 * DENSE) == pytest.approx(train, abs=5e-5)


@pytest.mark.parametrize(
    ("sparsity", "ratio"), [(0.8, 0.4537), (0.9, 0.2581), (0.95, 0.1437), (0.965, 0.1094)]
)
def test_resnet50_without_the_kernel_in_the_rule(resnet50, sparsity, ratio):
    report = resnet50.under(erdos_renyi(), sparsity)
    assert report.forward_flops / DENSE == pytest.approx(ratio, abs=5e-5)


@pytest.mark.parametrize(
    ("sparsity", "erk", "uniform_"),
    [(0.8, 23.684, 23.729), (0.9, 13.499, 13.532), (0.95, 8.399, 8.433), (0.965, 6.869, 6.904),
     (0.99, 4.318, 4.354)],
)  # fmt: skip
def test_resnet50_megabytes(resnet50, sparsity, erk, uniform_):
    for rule, megabytes in (
        (erdos_renyi_kernel(), erk),
        (uniform(first_layer_dense=True), uniform_),
    ):
        report = resnet50.under(rule, sparsity)
        assert report.bytes / 1e6 == pytest.approx(megabytes, abs=5.1e-4)


def test_wide_resnet_22_2():
    net = OnMeta(wide_resnet(22, 2), 32)
    assert net.count({}, "mac2").dense_forward_flops == 315_460_096
    dense = net.count({}).dense_forward_flops
    assert dense == pytest.approx(3.159e8, abs=5e4)
    for sparsity, ratio in ((0.8, 0.2033), (0.9, 0.1037)):
        report = net.under(uniform(first_layer_dense=True), sparsity)
        assert report.forward_flops / dense == pytest.approx(ratio, abs=5e-5)


def test_wide_resnet_28_10():
    net = OnMeta(wide_resnet(28, 10), 32)
    assert net.count({}, "mac2").dense_forward_flops == pytest.approx(1.0487e10, abs=5e5)
    dense = net.count({}).dense_forward_flops
    for sparsity, ratio in ((0.8, 0.3397), (0.9, 0.1688), (0.95, 0.0856)):
        report = net.under("erdos_renyi_kernel", sparsity)
        assert report.forward_flops / dense == pytest.approx(ratio, abs=5e-5)
