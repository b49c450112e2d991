"""Silent bugs of other libraries, B1 to B13, as far as ours could have them.

Numbered as in our survey; each docstring says what the other library does wrong.
"""

import itertools
from typing import Any

import pytest
import torch
from tiny_cases import (
    METHOD_NAMES,
    METHODS,
    OPTIMIZERS,
    batches,
    check_dead,
    fresh_state,
    loss_of,
    masks_of,
    step,
    tensors_in,
    tiny_net,
)
from torch import Tensor, nn

import regrow


@pytest.mark.parametrize("method", list(METHODS))
def test_b01_norms_stay_dense(method: str) -> None:
    """rigl-torch: excludes BatchNorm2d alone; LayerNorm and BatchNorm1d become 88 % zero."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv1d(3, 8, 3)
            self.norms = nn.ModuleList(
                [
                    nn.BatchNorm1d(8),
                    nn.LayerNorm([8, 4]),
                    nn.GroupNorm(2, 8),
                    nn.InstanceNorm1d(8, affine=True),
                    nn.RMSNorm([8, 4]),
                ]
            )
            self.embed = nn.Embedding(5, 4)
            self.scale = nn.Parameter(torch.ones(8, 4))
            self.fc = nn.Linear(32, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv1(x)
            for norm in self.norms:
                x = norm(x)
            return self.fc((x * self.scale + self.embed(torch.arange(8) % 5)).flatten(1))

    net = Net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = METHODS[method](net, optimizer)
    assert list(updater.topologies) == ["conv1.weight", "fc.weight"]
    for _ in range(22):
        net(torch.randn(6, 3, 6)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        for name, parameter in net.named_parameters():
            kind, _, role = name.partition(".")
            if kind in ("embed", "scale") or (kind == "norms" and role.endswith("weight")):
                assert parameter.detach().all(), name


@pytest.mark.parametrize("optimizer_name", ["adamw", "rmsprop"])
@pytest.mark.parametrize("method", ["set", "rigl", "granet-gradient"])
def test_b02_moments_of_dropped_weights_are_not_kept(method: str, optimizer_name: str) -> None:
    """rigl-torch: Adam's moments live on at dropped weights, and regrown ones start with them."""
    net = tiny_net()
    make = OPTIMIZERS[optimizer_name]
    optimizer = make(net.parameters())
    fresh = fresh_state(make, net)
    updater = METHODS[method](net, optimizer)
    regrown = 0
    seen = dropped = {n: torch.zeros_like(m) for n, m in masks_of(updater).items()}
    for batch in batches(22):
        old = masks_of(updater)
        step(net, optimizer, batch)
        assert check_dead(net, optimizer, updater, fresh) or updater.weight_steps == 0
        for name, topology in updater.topologies.items():
            back = topology.mask & ~old[name] & dropped[name]
            for value in optimizer.state[net.get_parameter(name)].values():
                if value.shape == back.shape:
                    assert not value[back].any()
            regrown += int(back.sum())
        seen = {n: seen[n] | old[n] for n in old}
        dropped = {n: seen[n] & ~m for n, m in masks_of(updater).items()}
    assert regrown > 0, "nothing came back: no test"


def test_b03_step_takes_a_closure() -> None:
    """rigl-torch: ``optimizer.step(closure)`` is a TypeError."""
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = METHODS["rigl"](net, optimizer)
    calls = 0
    for batch in batches(9):

        def closure() -> Tensor:
            nonlocal calls
            calls += 1
            optimizer.zero_grad()
            loss = loss_of(net, batch)  # noqa: B023
            loss.backward()
            return loss

        assert optimizer.step(closure) > 0
    assert (calls, updater.steps, updater.rewirings) == (9, 9, 2)


@pytest.mark.parametrize("rule", ["uniform", "erdos_renyi", "erdos_renyi_kernel"])
def test_b03_every_allocation_is_accepted(rule: str) -> None:
    """rigl-torch: accepts ``uniform`` alone."""
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = METHODS["rigl"](net, optimizer, allocation=getattr(regrow, rule)())
    assert updater.nnz == round(0.3 * 2584)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_b04_every_method_runs_with_its_defaults(name: str) -> None:
    """sparsimony: the schedule that ``srigl()`` builds is a tuple, and fails at its first step."""
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    make = getattr(regrow.methods, name)
    schedule = {} if name == "static" else {"n_steps": 400}
    updater = make(net, optimizer, sparsity=0.8, **schedule)
    x = torch.randn(4, 10)
    for _ in range(400):
        net(x).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert updater.nnz == round(0.2 * 280)
    assert (updater.rewirings > 0) == (name != "static")


@pytest.mark.parametrize("optimizer_name", list(OPTIMIZERS))
def test_b05_regrown_weights_start_at_zero(optimizer_name: str) -> None:
    """sparsimony: the initial value of regrown weights is computed and thrown away."""
    net = tiny_net()
    optimizer = OPTIMIZERS[optimizer_name](net.parameters())
    updater = METHODS["rigl"](net, optimizer, weight_step="before")
    n_grown = 0
    for batch in batches(22):
        old = masks_of(updater)
        step(net, optimizer, batch)
        for name, topology in updater.topologies.items():
            grown = topology.mask & ~old[name]
            assert not net.get_parameter(name).detach()[grown].any()
            n_grown += int(grown.sum())
    assert n_grown > 200


def test_b06_the_first_topology_is_random() -> None:
    """sparsimony: ``random_mask_init=True`` is a TypeError."""
    topologies = []
    for seed in range(3):
        net = nn.Linear(30, 30)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        topologies.append(regrow.static(net, optimizer, sparsity=0.5, seed=seed).topologies)
    for a, b in itertools.combinations(topologies, 2):
        overlap = int((a["weight"].mask & b["weight"].mask).sum())
        assert 150 < overlap < 300  # 225 by chance


# B7, growth by one rank's own gradient, needs two ranks: tests/methods/test_two_ranks.py


@pytest.mark.parametrize("method", list(METHODS))
def test_b08_the_state_dict_of_the_model_stays_what_it_was(method: str) -> None:
    """sparsimony: the model's state holds a float32 copy of each weight, and live gradients."""
    net, plain = tiny_net(), tiny_net()
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    updater = METHODS[method](net, optimizer)
    for batch in batches(6):
        step(net, optimizer, batch)
    loss_of(net, batches(1)[0]).backward()
    state = net.state_dict()
    assert list(state) == list(plain.state_dict())
    assert all(
        v.shape == state[k].shape and v.dtype == state[k].dtype
        for k, v in plain.state_dict().items()
    )
    assert {type(m) for m in net.modules()} == {type(m) for m in plain.modules()}
    assert [n for n, _ in net.named_buffers()] == []
    plain.load_state_dict(state)
    ours = sum(t.nbytes for t in tensors_in(updater.state_dict()))
    assert ours < 0.4 * sum(v.nbytes for v in state.values())


@pytest.mark.parametrize("name", ["RMSprop", "NAdam", "Adagrad", "RAdam", "Adadelta"])
def test_b08_optimizers_are_not_chosen_by_exact_type(name: str) -> None:
    """sparsimony: refuses RMSprop, NAdam, Adagrad, and every subclass of what it knows."""

    class Mine(getattr(torch.optim, name)):  # type: ignore[misc]
        pass

    net = tiny_net()
    optimizer = Mine(net.parameters(), lr=0.01)
    updater = METHODS["rigl"](net, optimizer)
    fresh = fresh_state(lambda p: Mine(p, lr=0.01), net)
    for batch in batches(6):
        step(net, optimizer, batch)
        check_dead(net, optimizer, updater, fresh)
    assert updater.rewirings == 1


def test_b08_a_subclass_keeps_the_fresh_values_of_its_base() -> None:
    """The same mistake once more: a subclass of Rprop starts from ``lr``, not from 0."""

    class Mine(torch.optim.Rprop):
        pass

    net = tiny_net()
    optimizer = Mine(net.parameters(), lr=0.01)
    updater = METHODS["set"](net, optimizer)
    fresh = fresh_state(lambda p: Mine(p, lr=0.01), net)
    assert fresh["fc.weight"]["step_size"] == pytest.approx(0.01)
    for batch in batches(6):
        step(net, optimizer, batch)
        check_dead(net, optimizer, updater, fresh)


def test_b13_growth_reads_the_whole_step_not_the_last_micro_batch() -> None:
    """SparseLab: RigL grows by the last micro-batch alone."""
    x, y = batches(1, dtype=torch.float64)[0]
    parts = [(x[:4], y[:4]), (x[4:], y[4:])]

    def grown_after(*micro: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        net = tiny_net(dtype=torch.float64)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        updater = regrow.rigl(net, optimizer, sparsity=0.7, n_steps=10, interval=1)
        for part in micro:
            (loss_of(net, part) * len(part[1]) / 16).backward()
        optimizer.step()
        return masks_of(updater)

    whole, summed, last = grown_after((x, y)), grown_after(*parts), grown_after(parts[1])
    assert all(torch.equal(whole[n], summed[n]) for n in whole)
    assert any(not torch.equal(whole[n], last[n]) for n in whole)


def test_b13_ordinary_steps_copy_nothing() -> None:
    """SparseLab: keeps a copy of every layer's input and output gradient on *every* step."""
    net = tiny_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    updater = METHODS["rigl"](net, optimizer)
    for i, batch in enumerate(batches(9), start=1):
        loss_of(net, batch).backward()
        optimizer.step()
        kept = [t for t in _tensors_of(updater) if t.dtype.is_floating_point]
        ours = {id(p) for p in net.parameters()}
        assert [t for t in kept if id(t) not in ours] == [], f"a copy is left after step {i}"
        optimizer.zero_grad()


def _tensors_of(root: Any) -> list[Tensor]:
    """Every tensor that hangs on an object of ours, optimizers and models left out."""
    found, todo, seen = [], [root], set()
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, nn.Module | torch.optim.Optimizer | type):
            continue
        seen.add(id(one))
        if torch.is_tensor(one):
            found.append(one)
        elif isinstance(one, dict):
            todo += list(one.values())
        elif isinstance(one, list | tuple):
            todo += list(one)
        elif type(one).__module__.startswith("regrow"):
            todo += list(getattr(one, "__dict__", {}).values())
    return found
