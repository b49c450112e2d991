"""Every optimizer that torch has: refused by name, or its dead state is what a fresh one holds."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from tiny_cases import (
    MakeOptimizer,
    as_list,
    batches,
    check_dead,
    counts_of,
    fresh_state,
    same,
    snapshot,
    state_tensors,
    step,
    tiny_net,
)
from torch import nn

import regrow

CLASSES = {
    name: value
    for name, value in vars(torch.optim).items()
    if isinstance(value, type)
    and issubclass(value, torch.optim.Optimizer)
    and value is not torch.optim.Optimizer
}
REFUSED = {"LBFGS", "SparseAdam", "Adafactor"}


def _muon(parameters: Iterable[nn.Parameter], **options: Any) -> list[torch.optim.Optimizer]:
    listed = list(parameters)
    matrices = [p for p in listed if p.dim() == 2]
    rest = [p for p in listed if p.dim() != 2]
    return [torch.optim.Muon(matrices, lr=0.02, **options), torch.optim.SGD(rest, lr=0.1)]


def made_by(name: str, **options: Any) -> MakeOptimizer:
    if name == "Muon":
        return lambda parameters: _muon(parameters, **options)
    return lambda parameters: CLASSES[name](parameters, **{"lr": 0.01, **options})


CASES: dict[str, MakeOptimizer] = {name: made_by(name) for name in CLASSES if name not in REFUSED}
CASES |= {
    "SGD plain": made_by("SGD"),
    "SGD nesterov": made_by("SGD", momentum=0.9, nesterov=True, weight_decay=0.1),
    "SGD dampened": made_by("SGD", momentum=0.9, dampening=0.1, maximize=False),
    "SGD fused": made_by("SGD", momentum=0.9, fused=True),
    "Adam amsgrad": made_by("Adam", amsgrad=True, weight_decay=0.1),
    "Adam fused": made_by("Adam", fused=True),
    "AdamW single": made_by("AdamW", foreach=False),
    "AdamW foreach": made_by("AdamW", foreach=True, amsgrad=True),
    "AdamW tensor lr": made_by("AdamW", lr=torch.tensor(0.01)),
    "Adagrad from 0.5": made_by("Adagrad", initial_accumulator_value=0.5, weight_decay=0.1),
    "Adagrad fused": made_by("Adagrad", initial_accumulator_value=0.5, fused=True),
    "RMSprop centered": made_by("RMSprop", centered=True, momentum=0.9, weight_decay=0.1),
    "Rprop": made_by("Rprop", lr=0.003),
    "Rprop tensor lr": made_by("Rprop", lr=torch.tensor(0.003), foreach=False),
    "ASGD decayed": made_by("ASGD", weight_decay=0.1, t0=2),
    "Muon nesterov": made_by("Muon", nesterov=True, weight_decay=0.1),
}
# What has no state of the weight's shape has nothing to reset.
STATELESS = {"SGD", "SGD plain"}


def fresh_values(name: str, net: nn.Module) -> dict[str, dict[str, float]]:
    found = fresh_state(CASES[name], net)
    if name == "Adamax":
        # max(beta2 * 0, |0| + eps): the step on zeros itself writes eps. A fresh one starts at 0,
        # and from either the next step makes |g| + eps.
        for values in found.values():
            assert values["exp_inf"] == pytest.approx(1e-8)
            values["exp_inf"] = 0.0
    return found


def test_refused_by_name() -> None:
    assert set(CLASSES) >= REFUSED
    for name in REFUSED:
        net = tiny_net()
        with pytest.raises(ValueError, match=f"{name} cannot train sparse weights"):
            regrow.static(net, CLASSES[name](list(net.parameters())), sparsity=0.5)
        assert net.fc.weight.detach().all()


@pytest.mark.parametrize("weight_step", ["before", "skip"])
@pytest.mark.parametrize("name", list(CASES))
def test_dead_state_is_fresh_at_every_step(name: str, weight_step: Any) -> None:
    net = tiny_net()
    optimizer = CASES[name](net.parameters())
    fresh = fresh_values(name, net)
    updater = regrow.rigl(
        net,
        optimizer,
        sparsity=0.7,
        n_steps=16,
        interval=2,
        regrow="zero",
        weight_step=weight_step,
    )
    start, n_compared = counts_of(updater), 0
    for batch in batches(9):
        step(net, optimizer, batch)
        n_compared += check_dead(net, optimizer, updater, fresh)
        assert counts_of(updater) == start
        assert all(p.isfinite().all() for p in net.parameters())
    assert updater.rewirings == 4
    live = [
        value[topology.mask]
        for key, topology in updater.topologies.items()
        for _, value in state_tensors(optimizer, net.get_parameter(key))
    ]
    if name in STATELESS:
        assert not live
    else:
        assert n_compared >= 20
        assert any(values.any() for values in live), "no state at all: no test"


@pytest.mark.parametrize("regrow_rule", ["never", "zero"])
@pytest.mark.parametrize("name", list(CASES))
def test_a_grown_weight_starts_as_a_fresh_one(name: str, regrow_rule: Any) -> None:
    """Right after a rewiring what was grown is at zero and so is its state; what was dropped and
    chosen again in one rewiring, too, if the rule says so."""
    net = tiny_net()
    optimizer = CASES[name](net.parameters())
    fresh = fresh_values(name, net)
    updater = regrow.rigl(
        net,
        optimizer,
        sparsity=0.5,
        n_steps=16,
        interval=4,
        weight_step="before",
        drop_fraction=0.9,
        regrow=regrow_rule,
    )
    for batch in batches(3):
        step(net, optimizer, batch)
    old = {n: t.mask.clone() for n, t in updater.topologies.items()}
    step(net, optimizer, batches(1, seed=4)[0])
    n_again = 0
    for at, (key, topology) in enumerate(updater.topologies.items()):
        parameter = net.get_parameter(key)
        started = topology.mask & (parameter.detach() == 0)
        assert started.sum() == updater.history[0].n_grown[at]
        assert not (topology.mask & ~old[key] & ~started).any()
        for state_key, value in state_tensors(optimizer, parameter):
            want = torch.full_like(value[started], fresh[key][state_key])
            assert torch.equal(value[started], want), (key, state_key)
        n_again += int((started & old[key]).sum())
    assert n_again == 0 if regrow_rule == "never" else n_again > 50
    assert sum(updater.history[0].n_grown) > 100


@pytest.mark.parametrize("name", list(CASES))
def test_an_optimizer_that_has_run_already(name: str) -> None:
    """Made sparse in mid-training: its dead state becomes fresh at once."""
    net = tiny_net()
    optimizer = CASES[name](net.parameters())
    for batch in batches(3):
        step(net, optimizer, batch)
    updater = regrow.static(net, optimizer, sparsity=0.7)
    check_dead(net, optimizer, updater, fresh_values(name, net))


def test_rprop_follows_a_learning_rate_schedule() -> None:
    """A fresh Rprop would start from the learning rate of now, not from that of the beginning."""
    net = tiny_net()
    optimizer = torch.optim.Rprop(net.parameters(), lr=0.01)
    updater = regrow.static(net, optimizer, sparsity=0.7)
    for batch in batches(2):
        step(net, optimizer, batch)
    optimizer.param_groups[0]["lr"] = 0.002
    step(net, optimizer, batches(1)[0])
    dead = ~updater.topologies["fc.weight"].mask
    assert (optimizer.state[net.fc.weight]["step_size"][dead] == 0.002).all()


def test_options_of_each_group_are_its_own() -> None:
    net = tiny_net()
    optimizer = torch.optim.Rprop(
        [
            {"params": [net.fc.weight], "lr": 0.5},
            {"params": [p for p in net.parameters() if p is not net.fc.weight]},
        ],
        lr=0.01,
    )
    updater = regrow.static(net, optimizer, sparsity=0.7)
    step(net, optimizer, batches(1)[0])
    for name, want in (("fc.weight", 0.5), ("conv.weight", 0.01)):
        dead = ~updater.topologies[name].mask
        values = optimizer.state[net.get_parameter(name)]["step_size"][dead]
        assert torch.equal(values, torch.full_like(values, want))


def test_a_foreign_optimizer_whose_state_follows_the_weight_is_welcome() -> None:
    """One that moves every entry, whatever its gradient: only the post-step pass holds zeros."""

    class Noisy(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {"lr": 0.1})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        slow = self.state[p].setdefault("slow", torch.zeros_like(p))
                        slow.add_(1.0)
                        p.sub_(0.01 * (p.grad + slow))

    net = tiny_net()
    optimizer = Noisy(net.parameters())
    updater = regrow.set_training(net, optimizer, sparsity=0.7, n_steps=20, interval=3)
    for batch in batches(8):
        step(net, optimizer, batch)
        for name, topology in updater.topologies.items():
            parameter = net.get_parameter(name)
            assert not parameter.detach()[~topology.mask].any()
            assert not optimizer.state[parameter]["slow"][~topology.mask].any()
    assert updater.rewirings == 2


def test_dense_parameters_keep_their_state() -> None:
    net, other = tiny_net(), tiny_net()
    optimizer, plain = (torch.optim.AdamW(x.parameters(), lr=0.01) for x in (net, other))
    regrow.static(net, optimizer, sparsity=0.0)
    for batch in batches(4):
        step(net, optimizer, batch)
        step(other, plain, batch)
    assert same(snapshot(net, as_list(optimizer)), snapshot(other, as_list(plain)))
