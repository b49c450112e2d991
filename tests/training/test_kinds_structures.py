"""Kinds of modules with each structure that fits: one rewiring, and what must hold after it."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from structure_cases import CASES
from torch import Tensor, nn

import regrow
from regrow.errors import SparsityError
from regrow.topology import Structure, Topology, Transposed, derived_generator, random_topology


class First(nn.Module):
    """The first output of a module that has several, and its names one level down."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module

    def forward(self, *x: Tensor) -> Tensor:
        return self.inner(*x)[0]


def attend(**sizes: int) -> nn.Module:
    return First(nn.MultiheadAttention(12, 2, **sizes))


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


# Outputs are a multiple of 6, inputs of 4, so that nearly every structure fits nearly every kind.
KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "linear": (lambda: nn.Linear(8, 6), lambda: (draw(5, 8),)),
    "bilinear": (lambda: nn.Bilinear(4, 3, 6), lambda: (draw(5, 4), draw(5, 3))),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), lambda: (draw(2, 4, 7),)),
    "conv2d": (lambda: nn.Conv2d(8, 12, 3, groups=2), lambda: (draw(2, 8, 5, 5),)),
    "conv3d": (lambda: nn.Conv3d(4, 6, (1, 2, 2)), lambda: (draw(2, 4, 2, 3, 3),)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 3), lambda: (draw(2, 4, 5),)),
    "transposed2d": (lambda: nn.ConvTranspose2d(8, 12, 2, groups=2), lambda: (draw(2, 8, 4, 4),)),
    "transposed3d": (lambda: nn.ConvTranspose3d(4, 6, (1, 2, 1)), lambda: (draw(2, 4, 2, 3, 3),)),
    "attention": (attend, lambda: (draw(4, 2, 12),) * 3),
    "attention, separate": (
        lambda: attend(kdim=4, vdim=8),
        lambda: (draw(4, 2, 12), draw(4, 2, 4), draw(4, 2, 8)),
    ),
    "rnn": (lambda: First(nn.RNN(4, 12)), lambda: (draw(3, 2, 4),)),
    "lstm": (lambda: First(nn.LSTM(4, 12)), lambda: (draw(3, 2, 4),)),
    "gru": (lambda: First(nn.GRU(4, 12, bidirectional=True)), lambda: (draw(3, 2, 4),)),
    "gru cell": (lambda: nn.GRUCell(8, 12), lambda: (draw(2, 8),)),
}
TRANSPOSED = {"transposed1d": 1, "transposed2d": 2, "transposed3d": 1}
MATRICES = {"linear", "attention", "attention, separate", "rnn", "lstm", "gru", "gru cell"}
OF_ANY_KIND = [name for name in CASES if name != "own-pairs"]
N_WEIGHTS = {"attention": 2, "attention, separate": 4, "rnn": 2, "lstm": 2, "gru": 4, "gru cell": 2}


def make(kind: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, tuple[Tensor, ...]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = KINDS[kind][0]().to(dtype)
    return net, tuple(x.to(dtype) for x in KINDS[kind][1]())


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def rigl(net: nn.Module, optimizer: Any, structure: Structure, **more: Any) -> Any:
    fixed = structure.fixed_sparsity is not None
    return regrow.rigl(
        net,
        optimizer,
        **{
            "sparsity": None if fixed else 0.5,
            "structure": structure,
            "select": regrow.fitting(structure),
            "n_steps": 20,
            "interval": 2,
            "drop_fraction": 0.8,
            **more,
        },
    )


def iterate(net: nn.Module, inputs: tuple[Tensor, ...], optimizer: Any, n: int) -> None:
    for i in range(n):
        net(*(x + i / 10 for x in inputs)).float().pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def check(net: nn.Module, optimizer: Any, updater: Any, start: dict[str, Topology]) -> None:
    for name, topology in updater.topologies.items():
        weight, dead = net.get_parameter(name), ~topology.mask
        assert topology.mask.shape == weight.shape
        assert not weight.detach()[dead].any(), name
        assert torch.equal(topology.counts(), start[name].counts()), name
        buffer = optimizer.state[weight].get("momentum_buffer")
        assert buffer is None or not buffer[dead].any(), name


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_one_rewiring_of_every_kind(kind: str, name: str) -> None:
    structure = CASES[name].structure
    net, inputs = make(kind)
    optimizer = sgd(net)
    if name == "own-pairs" and kind not in MATRICES:
        with pytest.raises(SparsityError, match="no weight is selected"):
            rigl(net, optimizer, structure)
        return
    updater = rigl(net, optimizer, structure)
    assert len(updater.topologies) == N_WEIGHTS.get(kind, 1), "outputs by 6 and inputs by 4"
    start = dict(updater.topologies)
    for topology in start.values():
        if kind in TRANSPOSED and name != "unstructured":
            assert topology.structure == Transposed(structure, TRANSPOSED[kind])
        else:
            assert topology.structure == structure
    check(net, optimizer, updater, start)
    iterate(net, inputs, optimizer, 3)
    assert updater.rewirings == 1
    check(net, optimizer, updater, start)
    if name != "nm-4:4" and any(t.sparsity for t in start.values()):
        n_units = sum(t.n_units for t in start.values())
        assert start != dict(updater.topologies) or n_units < 20, "it moved"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OF_ANY_KIND)
@pytest.mark.parametrize("kind", ["linear", "conv2d", "transposed2d"])
def test_other_dtypes(kind: str, name: str, dtype: torch.dtype) -> None:
    structure = CASES[name].structure
    net, inputs = make(kind, dtype)
    optimizer = sgd(net)
    updater = rigl(net, optimizer, structure, regrow="zero", weight_step="before")
    start = dict(updater.topologies)
    iterate(net, inputs, optimizer, 5)
    assert updater.rewirings == 2
    check(net, optimizer, updater, start)
    assert net.weight.dtype == dtype


@pytest.mark.parametrize("name", OF_ANY_KIND)
@pytest.mark.parametrize("kind", ["conv2d", "transposed2d"])
def test_memory_formats_agree(kind: str, name: str) -> None:
    """Row-major positions whatever the strides: topologies and weights are the same."""
    structure = CASES[name].structure
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        net, inputs = make(kind, torch.float64)
        net = net.to(memory_format=memory_format)
        optimizer = sgd(net)
        updater = rigl(net, optimizer, structure, regrow="zero", weight_step="before")
        start = dict(updater.topologies)
        masks = []
        for _ in range(3):
            iterate(net, inputs, optimizer, 2)
            check(net, optimizer, updater, start)
            masks.append(updater.topologies["weight"].mask.clone())
        assert net.weight.is_contiguous(memory_format=memory_format)
        results.append((masks, net.weight.detach().clone()))
    assert all(torch.equal(a, b) for a, b in zip(results[0][0], results[1][0], strict=True))
    torch.testing.assert_close(results[0][1], results[1][1])


@pytest.mark.parametrize("name", OF_ANY_KIND)
def test_a_transposed_weight_of_a_linear_layer(name: str) -> None:
    structure = CASES[name].structure
    net = nn.Linear(8, 6)
    net.weight = nn.Parameter(draw(8, 6).t())
    assert not net.weight.is_contiguous()
    optimizer = sgd(net)
    updater = rigl(net, optimizer, structure, regrow="zero", weight_step="before")
    start = dict(updater.topologies)
    iterate(net, (draw(5, 8),), optimizer, 5)
    check(net, optimizer, updater, start)


# -- what structures mean for a module -------------------------------------------------------


def dead_outputs(net: nn.Module, x: Tensor) -> list[int]:
    with torch.no_grad():
        net.bias.zero_()
        return (net(x).abs().amax(dim=(0, *range(2, x.dim()))) == 0).nonzero().squeeze(1).tolist()


@pytest.mark.parametrize("kind", ["linear", "conv2d", "transposed1d", "transposed2d"])
def test_output_channels_that_are_out_are_silent(kind: str) -> None:
    net, inputs = make(kind)
    structure = regrow.OutChannel()
    updater = regrow.static(net, sgd(net), sparsity=0.5, structure=structure)
    out = (~updater.topologies["weight"].active).nonzero().squeeze(1).tolist()
    assert out
    assert dead_outputs(net, inputs[0]) == out


@pytest.mark.parametrize("kind", ["linear", "conv1d", "transposed1d", "transposed3d"])
def test_input_channels_that_are_out_are_not_heard(kind: str) -> None:
    net, (x,) = make(kind)
    updater = regrow.static(net, sgd(net), sparsity=0.5, structure=regrow.InChannel())
    out = (~updater.topologies["weight"].active).nonzero().squeeze(1)
    x = x.clone().requires_grad_()
    net(x).pow(2).sum().backward()
    silent = (x.grad.abs().amax(dim=(0, *range(2, x.dim()))) == 0).nonzero().squeeze(1)
    assert out.numel() > 0
    assert silent.tolist() == out.tolist()


@pytest.mark.parametrize("kind", ["conv2d", "transposed2d", "transposed3d", "linear"])
def test_constant_fan_in_is_that_of_every_output(kind: str) -> None:
    """Counted by what reaches an output: the gradient of its sum, one weight at a time."""
    net, inputs = make(kind)
    updater = regrow.static(net, sgd(net), sparsity=0.5, structure=regrow.ConstantFanIn())
    fan_in = updater.topologies["weight"].counts().unique()
    assert fan_in.numel() == 1
    out = net(*inputs)
    for channel in range(out.shape[1]):
        (grad,) = torch.autograd.grad(out[:, channel].sum(), net.weight, retain_graph=True)
        reached = (grad != 0) & updater.topologies["weight"].mask
        assert int(reached.sum()) == int(fan_in)


def test_a_structure_that_is_transposed_already_stays_as_it_is() -> None:
    net, _ = make("transposed2d")
    asked = Transposed(regrow.Kernel(), 2)
    updater = regrow.static(net, sgd(net), sparsity=0.5, structure=asked)
    assert updater.topologies["weight"].structure == asked


# -- fitting and explicit --------------------------------------------------------------------


def mixed_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(3, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 5), nn.Linear(5, 4)
    )


@pytest.mark.parametrize(
    ("structure", "names"),
    [
        (regrow.NM(2, 4), ["1.weight", "3.weight"]),
        (regrow.Block(4, 1), ["0.weight", "1.weight", "4.weight"]),
        (regrow.Block(2, 5), ["4.weight"]),
        (regrow.ChannelGroups(5), ["3.weight"]),
        (regrow.Kernel(), ["0.weight", "1.weight", "3.weight", "4.weight"]),
    ],
)
def test_fitting_selects_what_a_structure_divides(structure: Structure, names: list[str]) -> None:
    net = mixed_net()
    fixed = structure.fixed_sparsity is not None
    updater = regrow.static(
        net,
        sgd(net),
        sparsity=None if fixed else 0.5,
        structure=structure,
        select=regrow.fitting(structure),
    )
    assert list(updater.topologies) == names
    assert "left out by select" in str(updater.plan()) or len(names) == 4


def test_fitting_nothing_says_so() -> None:
    structure = regrow.NM(1, 7)
    with pytest.raises(SparsityError, match="no weight is selected"):
        regrow.static(
            mixed_net(),
            sgd(mixed_net()),
            sparsity=None,
            structure=structure,
            select=regrow.fitting(structure),
        )


def test_fitting_leaves_tied_embeddings_out_as_the_default_does() -> None:
    net = nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 8), nn.Linear(8, 12, bias=False))
    net[2].weight = net[0].weight
    select = regrow.fitting(regrow.Block(2, 2))
    updater = regrow.static(
        net, sgd(net), sparsity=0.5, structure=regrow.Block(2, 2), select=select
    )
    assert list(updater.topologies) == ["1.weight"]


def region(n_units: int, seed: int) -> Tensor:
    generator = derived_generator(seed, "allowed")
    return torch.rand(n_units, generator=generator) < 0.6


def given_topologies(net: nn.Module) -> dict[str, Topology]:
    """Another structure for each layer, two of them with places that may never be used."""
    drawn = functools.partial(random_topology, generator=derived_generator(1, "given"))
    allowed = region(64, 0)
    runs = regrow.ChannelGroups(5)
    ablated = torch.zeros(4, 5, dtype=torch.bool)
    ablated[0, 1:3] = ablated[2, 3:] = True
    return {
        "0.weight": drawn((8, 3), 3, structure=regrow.OutChannel()),
        "1.weight": drawn((8, 8), 20, allowed=allowed),
        "3.weight": drawn((5, 8), 10, structure=runs, allowed=region(40, 1)),
        "4.weight": Topology.from_mask(ablated, structure=regrow.ConstantFanIn()),
    }


@pytest.mark.parametrize("method", ["rigl", "set_training"])
@pytest.mark.parametrize("say_sparsity", [False, True])
def test_explicit_topologies_are_taken_over_with_their_structures(
    method: str, say_sparsity: bool
) -> None:
    net = mixed_net()
    optimizer, given = sgd(net), given_topologies(net)
    n_all = sum(t.n_elements for t in given.values())
    nnz = sum(t.nnz for t in given.values())
    updater = getattr(regrow, method)(
        net,
        optimizer,
        sparsity=1 - nnz / n_all if say_sparsity else None,
        allocation=regrow.explicit(given),
        n_steps=20,
        interval=2,
        drop_fraction=0.7,
    )
    assert dict(updater.topologies) == given
    seen = {name: t.active.clone() for name, t in given.items()}
    for _ in range(7):
        iterate(net, (draw(6, 3),), optimizer, 1)
        check(net, optimizer, updater, given)
        for name, topology in updater.topologies.items():
            seen[name] |= topology.active
            assert (topology.allowed is None) == (given[name].allowed is None)
    assert updater.rewirings == 3
    for name in ("1.weight", "3.weight"):
        assert not (seen[name] & ~given[name].allowed).any()
        assert int(seen[name].sum()) > given[name].n_active, "it moved, within its region"
    assert updater.topologies["4.weight"].counts().tolist() == [2, 0, 2, 0]
    state = updater.state_dict()
    updater.load_state_dict(state)
    assert updater.topologies["1.weight"].allowed is not None


def test_an_explicit_topology_of_another_structure_than_asked_for() -> None:
    net = mixed_net()
    with pytest.raises(SparsityError, match=r"structure=Kernel.*of '0.weight' is OutChannel"):
        regrow.rigl(
            net,
            sgd(net),
            sparsity=None,
            allocation=regrow.explicit(given_topologies(net)),
            structure=regrow.Kernel(),
            n_steps=20,
            interval=2,
        )


def test_a_target_outside_of_what_is_allowed_is_refused_at_the_start() -> None:
    """On the way to it, not at its end: the first target needs more than the region holds."""
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    allowed = torch.arange(64) < 20
    given = Topology(torch.arange(16), (8, 8), allowed=allowed)
    full = Topology.full((8, 8))
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(SparsityError, match=r"'0.weight' .*and 20 are allowed"):
        regrow.TopologyUpdater(
            net,
            sgd(net),
            parts=[pruning_part(net, {"0.weight": given, "1.weight": full})],
            seed=0,
        )
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))


def pruning_part(net: nn.Module, given: dict[str, Topology]) -> regrow.training.Part:
    from regrow.schedules import UpdateWindow, constant, cubic

    layers = regrow.training.prepare_layers(
        net,
        sparsity=None,
        allocation=regrow.explicit(given),
        structure=regrow.Unstructured(),
        select="*",
        seed=0,
    )
    rule = regrow.Rule(
        drop=regrow.criteria.magnitude,
        grow=regrow.criteria.random,
        drop_fraction=constant(0.0),
        window=UpdateWindow(interval=2, stop=20),
        target=cubic(0.375, 0.8, start=0, end=18),
        budget=regrow.per_layer(allocation=regrow.uniform()),
    )
    return regrow.training.Part(layers, rule)
