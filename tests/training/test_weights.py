"""Which weights become sparse, and why each other tensor stays dense."""

from typing import Any

import pytest
import torch
from tiny_cases import tiny_net
from torch import nn
from torch.nn.parallel import DataParallel

import regrow
from regrow.errors import SparsityError
from regrow.training import default_weights, prepare_layers, sparsify_


class Zoo(nn.Module):
    """One of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.positions = nn.Parameter(torch.randn(4, 6))
        self.embed = nn.Embedding(9, 6)
        self.conv = nn.Conv1d(6, 6, 3)
        self.bilinear = nn.Bilinear(6, 6, 4)
        self.cell = nn.GRUCell(6, 6)
        self.batch = nn.BatchNorm1d(6)
        self.layer = nn.LayerNorm([4, 6])
        self.group = nn.GroupNorm(2, 6)
        self.rms = nn.RMSNorm(6)
        self.linear = nn.Linear(6, 6)


SPARSE = ["conv.weight", "bilinear.weight", "cell.weight_ih", "cell.weight_hh", "linear.weight"]


def updater_on(net: nn.Module, **options: Any) -> regrow.TopologyUpdater:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    return regrow.static(net, optimizer, sparsity=0.5, **options)


def test_chosen_by_type_and_role() -> None:
    net = Zoo()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    updater = updater_on(net)
    assert list(updater.topologies) == SPARSE
    for name, parameter in net.named_parameters():
        if name not in SPARSE:
            assert torch.equal(parameter, before[name]), name


def test_the_plan_says_why_each_other_tensor_is_dense() -> None:
    text = str(updater_on(Zoo(), select=["linear.weight"]).plan())
    rows = {line.split()[0]: line for line in text.splitlines() if line.split()}
    for name, why in {
        "token": "free parameter",
        "positions": "free parameter",
        "embed.weight": "embedding",
        "conv.weight": "left out by select",
        "batch.weight": "norm (BatchNorm1d)",
        "layer.weight": "norm (LayerNorm)",
        "group.weight": "norm (GroupNorm)",
        "rms.weight": "norm (RMSNorm)",
        "linear.bias": "bias",
        "cell.bias_ih": "bias",
    }.items():
        assert why in rows[name], name
    assert "free parameter" not in rows["linear.weight"]


@pytest.mark.parametrize(
    ("select", "names"),
    [
        ("conv.*eight", ["conv.weight"]),
        (["*.weight_hh", "linear.weight"], ["cell.weight_hh", "linear.weight"]),
        (("positions",), ["positions"]),
        (lambda name, module, p: isinstance(module, nn.Linear) and p.dim() == 2, ["linear.weight"]),
        (
            lambda name, module, p: default_weights(name, module, p) and name != "conv.weight",
            SPARSE[1:],
        ),
        ("embed.weight", ["embed.weight"]),  # asked for by name: so be it
    ],
)
def test_select(select: Any, names: list[str]) -> None:
    assert list(updater_on(Zoo(), select=select).topologies) == names


def test_a_subclass_is_what_it_derives_from() -> None:
    class Mine(nn.Linear):
        pass

    net = nn.Sequential(Mine(4, 4), nn.LazyLinear(4))
    net(torch.zeros(1, 4))
    assert list(updater_on(net).topologies) == ["0.weight", "1.weight"]


def test_a_single_layer_is_a_model() -> None:
    assert list(updater_on(nn.Linear(4, 4)).topologies) == ["weight"]


@pytest.mark.parametrize(
    "wrap",
    [
        DataParallel,
        torch.optim.swa_utils.AveragedModel,
        lambda net: torch.compile(net, backend="eager"),
        lambda net: DataParallel(torch.compile(net, backend="eager")),
    ],
)
def test_names_are_those_of_the_bare_model(wrap: Any) -> None:
    bare = updater_on(tiny_net())
    wrapped = updater_on(wrap(tiny_net()))
    assert dict(bare.topologies) == dict(wrapped.topologies), "and so are the topologies"


def test_a_compiled_part_keeps_its_name() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1] = torch.compile(net[1], backend="eager")
    assert list(updater_on(net).topologies) == ["0.weight", "1.weight"]


def test_a_module_that_is_called_module_keeps_its_name() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(4, 4)

    assert list(updater_on(Net()).topologies) == ["module.weight"]


def test_sparsify_zeroes_and_returns_layers() -> None:
    net = tiny_net()
    layers = sparsify_(net, sparsity=0.8, seed=3)
    for name, layer in layers.items():
        weight = net.get_parameter(name).detach()
        assert not weight[~layer.topology.mask].any()
        assert weight[layer.topology.mask].all()
        assert layer.parameter is net.get_parameter(name)
    other = tiny_net()
    made = regrow.static(other, torch.optim.SGD(other.parameters(), lr=0.1), sparsity=0.8, seed=3)
    assert {n: x.topology for n, x in layers.items()} == dict(made.topologies)


def test_prepare_changes_nothing() -> None:
    net = tiny_net()
    before = [p.detach().clone() for p in net.parameters()]
    prepare_layers(
        net,
        sparsity=0.8,
        allocation=regrow.uniform(),
        structure=regrow.Unstructured(),
        select="*.weight",
        seed=0,
    )
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    assert not net._forward_pre_hooks


def test_counts_are_those_of_the_allocation() -> None:
    shapes = {
        "conv.weight": (8, 3, 3, 3),
        "fc.weight": (16, 128),
        "mid.weight": (16, 16),
        "head.weight": (4, 16),
    }
    for rule in (regrow.uniform(), regrow.erdos_renyi(), regrow.erdos_renyi_kernel()):
        fractions = regrow.allocate(shapes, 0.7, rule)
        updater = updater_on_at(tiny_net(), 0.7, allocation=rule)
        for name, topology in updater.topologies.items():
            assert abs(topology.nnz - (1 - fractions[name]) * topology.n_elements) < 2
        assert updater.nnz == round(0.3 * 2584)
    fixed = regrow.erdos_renyi(epsilon=2)
    updater = updater_on_at(tiny_net(), None, allocation=fixed)
    assert updater.topologies["fc.weight"].nnz == 2 * (128 + 16)


def updater_on_at(net: nn.Module, sparsity: float | None, **options: Any) -> Any:
    return regrow.static(
        net, torch.optim.SGD(net.parameters(), lr=0.1), sparsity=sparsity, **options
    )


def test_an_explicit_topology_is_taken_over_by_rigl() -> None:
    net = tiny_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    mask = torch.zeros(16, 128, dtype=torch.bool)
    mask[:, ::4] = True
    given = regrow.Topology.from_mask(mask)
    updater = regrow.rigl(
        net,
        optimizer,
        sparsity=None,
        allocation=regrow.explicit({"fc.weight": given, "mid.weight": 0.5}),
        select=["fc.weight", "mid.weight"],
        n_steps=100,
        interval=10,
    )
    assert updater.topologies["fc.weight"] == given
    assert updater.topologies["mid.weight"].nnz == 128
    assert torch.equal(net.fc.weight.detach() != 0, mask)


def test_globs_leave_norms_and_biases_dense() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4))
    chosen = regrow.sparsify_(net, sparsity=0.5, select="*")
    assert list(chosen) == ["0.weight", "2.weight"]
    assert list(regrow.sparsify_(net, sparsity=0.5, select=["2.*", "1.weight"])) == [
        "1.weight",  # its whole name
        "2.weight",
    ]
    with pytest.raises(SparsityError, match=r"fewer than two dimensions, such as '1\.weight'"):
        regrow.sparsify_(net, sparsity=0.5, select="1.*")


def test_a_predicate_of_other_arguments_is_refused() -> None:
    with pytest.raises(TypeError, match=r"select must take \(name, module, parameter\)"):
        regrow.sparsify_(nn.Linear(4, 4), sparsity=0.5, select=lambda name, parameter: True)


@pytest.mark.parametrize("allocation", ["uniform", regrow.uniform, 0.5])
def test_an_allocation_that_is_none(allocation: Any) -> None:
    net = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"regrow\.uniform\(\)"):
        regrow.static(net, optimizer, sparsity=0.5, allocation=allocation)
