"""Masked and truly sparse training are one: the same topologies, the same losses to 1e-9."""

from typing import Any

import pytest
import torch
from compact_cases import (
    INTERVAL,
    METHODS,
    N_STEPS,
    OPTIMIZERS,
    SPARSITY,
    Run,
    assert_same_runs,
    batches,
    both,
    conv_net,
    linear_net,
    start,
)
from torch import Tensor, nn

import regrow
from regrow import criteria
from regrow.schedules import UpdateWindow, cosine

DATA = batches(N_STEPS)


def compare(*arguments: Any, **options: Any) -> None:
    pair = both(*arguments, **options)
    for run in pair:
        run.train(DATA)
    assert_same_runs(*pair, rewires=arguments[1] != "static")


@pytest.mark.parametrize("make", [linear_net, conv_net])
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("method", METHODS)
def test_methods(method: str, optimizer: str, make: Any) -> None:
    compare(make, method, optimizer)


@pytest.mark.parametrize("method", ["rigl", "granet-random"])
@pytest.mark.parametrize("optimizer", sorted({*OPTIMIZERS} - {"momentum", "adamw"}))
def test_optimizers(optimizer: str, method: str) -> None:
    compare(linear_net, method, optimizer)


@pytest.mark.parametrize("weight_step", ["before", "after", "skip"])
@pytest.mark.parametrize("regrow_", ["keep", "zero", "never"])
@pytest.mark.parametrize("method", ["set", "rigl", "granet"])
def test_weight_steps_and_regrowth(method: str, regrow_: str, weight_step: str) -> None:
    # Far more is dropped than places are free, so that much of it comes back at once.
    options = {"drop_fraction": 0.9, "regrow": regrow_, "weight_step": weight_step}
    pair = both(linear_net, method, "adamw", **options)
    for run in pair:
        run.train(DATA)
    assert_same_runs(*pair)
    history = pair[1].updater.history
    came_back = sum(sum(r.n_grown) - sum(r.n_new) for r in history)
    assert (came_back > 0) == (regrow_ == "zero" or (method == "granet" and regrow_ == "keep")), (
        came_back
    )


STRUCTURES = {
    "2:4": regrow.NM(2, 4),
    "1:4": regrow.NM(1, 4),
    "fan-in": regrow.ConstantFanIn(),
    "blocks": regrow.Block(2, 4),
    "columns of blocks": regrow.Block(3, 1),
    "outputs": regrow.OutChannel(),
    "inputs": regrow.InChannel(),
    "runs": regrow.ChannelGroups(3),
    "kernel": regrow.Kernel(),
    "kernel, fan-in": regrow.Kernel(per_output=True),
}


@pytest.mark.parametrize("weight_step", ["before", "after"])
@pytest.mark.parametrize("method", ["set", "rigl"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures(structure: str, method: str, weight_step: str) -> None:
    compare(linear_net, method, "adamw", structure=STRUCTURES[structure], weight_step=weight_step)


@pytest.mark.parametrize("structure", ["blocks", "kernel", "kernel, fan-in", "outputs", "2:4"])
def test_structures_of_convolutions(structure: str) -> None:
    def net() -> nn.Sequential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            made = conv_net()
            made[3] = nn.Conv2d(12, 12, (1, 2), stride=(1, 2), padding=(0, 1)).double()
        return made

    compare(net, "rigl", "momentum", structure=STRUCTURES[structure])


@pytest.mark.parametrize("regrow_", ["keep", "zero"])
@pytest.mark.parametrize("structure", ["blocks", "fan-in", "runs"])
def test_structures_that_change_their_count(structure: str, regrow_: str) -> None:
    budget = regrow.per_layer(allocation=regrow.erdos_renyi_kernel())
    compare(
        linear_net, "granet", "adamw", structure=STRUCTURES[structure], budget=budget,
        regrow=regrow_,
    )  # fmt: skip


BUDGETS = {
    "redistribute": regrow.redistribute,
    "global": regrow.global_magnitude,
    "per layer, up": lambda: regrow.per_layer(rounding="up"),
}
GROW = {
    "gradient": criteria.gradient,
    "random": criteria.random,
    "product": criteria.product(criteria.gradient, criteria.random),
    "sum": criteria.weighted_sum((criteria.gradient, 1.0), (criteria.random, 1e-3)),
    "plain function": lambda layer, flat: layer.grad_at(flat).square(),
}


def updater_of(run: Run, **rule: Any) -> Run:
    """The same with an updater of a rule made by hand."""
    (layers,) = (part.layers for part in run.updater._parts)
    run.updater.detach()
    made = regrow.Rule(
        **{
            "drop": criteria.magnitude,
            "grow": criteria.gradient,
            "drop_fraction": cosine(0.5, 0.1, end=N_STEPS),
            "window": UpdateWindow.of_training(N_STEPS, interval=INTERVAL, stop_at=1.0),
            **rule,
        }
    )
    updater = regrow.TopologyUpdater(
        run.net, run.optimizer, parts=[regrow.training.Part(layers, made)], seed=3
    )
    return Run(run.net, run.optimizer, updater)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("grow", GROW)
def test_budgets_and_criteria(budget: str, grow: str) -> None:
    pair = [
        updater_of(run, budget=BUDGETS[budget](), grow=GROW[grow])
        for run in both(linear_net, "static", "momentum")
    ]
    for run in pair:
        run.train(DATA)
    assert_same_runs(*pair)


@pytest.mark.parametrize("drop", ["signed_magnitude", "saliency", "random", "momentum"])
def test_drop_criteria(drop: str) -> None:
    def by_momentum(layer: Any, flat: Tensor) -> Tensor:
        return layer.state_at("momentum_buffer", flat).abs()

    score = by_momentum if drop == "momentum" else getattr(criteria, drop)
    compare(linear_net, "rigl", "momentum", drop=score, weight_step="before")


@pytest.mark.parametrize("allocation", ["uniform", "erdos_renyi"])
def test_allocations(allocation: str) -> None:
    compare(linear_net, "rigl", "momentum", allocation=getattr(regrow, allocation)())


# -- models --------------------------------------------------------------------------------------


class Twice(nn.Module):
    """A layer that is called twice in one pass, and two that are tied."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(24, 12)
        self.shared = nn.Linear(12, 12)
        self.a, self.b = nn.Linear(12, 12, bias=False), nn.Linear(12, 12)
        self.b.weight = self.a.weight
        self.same = nn.ModuleList([self.shared])
        self.head = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu_()
        x = self.same[0](self.shared(x).relu())
        x = self.a(x).tanh()
        return self.head(x + self.b(x))


def twice_net() -> Twice:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Twice().double()


@pytest.mark.parametrize("method", METHODS)
def test_shared_and_tied_layers(method: str) -> None:
    masked, compact = both(twice_net, method, "momentum")
    net = compact.net
    assert net.a.values is net.b.values
    assert net.same[0] is net.shared
    for run in (masked, compact):
        run.train(DATA)
    assert net.a.values is net.b.values
    assert net.a.topology == net.b.topology
    assert_same_runs(masked, compact, rewires=method != "static")


class Tokens(nn.Module):
    """Linear layers on three dimensions, and one that no gradient reaches in some passes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(12, 24)
        self.outer = nn.Linear(24, 6)
        self.rare = nn.Linear(12, 6)
        self.n = 0

    def forward(self, x: Tensor) -> Tensor:
        self.n += 1
        x = x.view(-1, 2, 12)
        y = self.outer(self.inner(x).relu_()).mean(dim=1)
        return y + self.rare(x[:, 0]) if self.n % 2 else y


@pytest.mark.parametrize("method", ["set", "rigl", "mest-gradient", "granet"])
def test_more_dimensions_and_layers_without_gradient(method: str) -> None:
    def net() -> Tokens:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            return Tokens().double()

    compare(net, method, "momentum")


def test_some_layers_masked_and_some_truly_sparse() -> None:
    """Global pruning looks at both kinds together."""

    def net() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            return nn.Sequential(
                nn.Linear(24, 24), nn.Unflatten(1, (2, 12)),
                nn.TransformerEncoderLayer(12, 2, 12, 0.0, batch_first=True),
                nn.Flatten(), nn.Linear(24, 6),
            ).double()  # fmt: skip

    masked, compact = both(net, "granet", "adamw")
    kinds = {name: t.is_compact for name, t in compact.updater.topologies.items()}
    assert kinds["0.weight"]
    assert kinds["4.weight"]
    assert not kinds["2.self_attn.in_proj_weight"]
    assert not kinds["2.self_attn.out_proj.weight"]
    for run in (masked, compact):
        run.train(DATA)
    for one, two in zip(masked.topologies, compact.topologies, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert masked.losses == pytest.approx(compact.losses, abs=1e-9)


# -- counts at the start -------------------------------------------------------------------------


def test_mest_may_start_at_its_target() -> None:
    run = start(linear_net(), "mest", "adamw", compact=True, held=SPARSITY)
    before = run.updater.nnz
    run.train(DATA)
    history = run.updater.history
    assert sum(history[0].nnz) > before
    assert run.updater.nnz == before == sum(history[-1].nnz)


def test_sparsity_may_be_left_out_where_all_are_truly_sparse() -> None:
    one = start(linear_net(), "rigl", compact=True)
    two = linear_net()
    drawn = regrow.compress_(two, sparsity=SPARSITY, seed=7)
    optimizer = OPTIMIZERS["momentum"](two.parameters())
    options = {"sparsity": None, "seed": 7, **METHODS["rigl"][1]}
    alone = Run(two, optimizer, regrow.rigl(two, optimizer, **options))
    three = linear_net()
    regrow.compress_(three, sparsity=SPARSITY, seed=7)
    optimizer = OPTIMIZERS["momentum"](three.parameters())
    options["allocation"] = regrow.explicit(drawn)
    by_name = Run(three, optimizer, regrow.rigl(three, optimizer, **options))
    runs = [run.train(DATA) for run in (one, alone, by_name)]
    assert runs[0].losses == runs[1].losses == runs[2].losses
