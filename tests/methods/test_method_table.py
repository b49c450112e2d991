"""Every method with every optimizer: what must hold at every step, and after a resume."""

import math
from pathlib import Path

import pytest
import torch
from tiny_cases import (
    CONSTANT,
    INTERVAL,
    METHODS,
    MORE_OPTIMIZERS,
    N_STEPS,
    OPTIMIZERS,
    READS_GRADIENT,
    SPARSITY,
    as_list,
    batches,
    check_dead,
    counts_of,
    due_steps,
    fresh_state,
    loss_of,
    masks_of,
    same,
    snapshot,
    step,
    tiny_net,
)
from torch import Tensor, nn

import regrow

SELECTED = ["conv.weight", "fc.weight", "mid.weight", "head.weight"]
N_WEIGHTS = 8 * 3 * 9 + 128 * 16 + 16 * 16 + 16 * 4
ALL = {**OPTIMIZERS, **MORE_OPTIMIZERS}
TABLE = [(m, o) for m in METHODS for o in OPTIMIZERS] + [
    (m, o) for m in ("set", "rigl", "granet-random", "gradual") for o in MORE_OPTIMIZERS
]


def held(method: str, after: int) -> int:
    """Connections over all layers after so many steps, from the papers' formulas."""
    past = [due for due in due_steps(method) if due <= after]
    if method.startswith("mest"):
        # 1 + 0.1 of the target until 3/4 of the rewirings, 1 + 0.05, and 1 at the last one.
        last = due_steps(method)[-1]
        at = past[-1] if past else 0
        above = 0.0 if at >= last else 0.05 if at >= last * 3 // 4 else 0.1
        return round(N_WEIGHTS * (1 - SPARSITY) * (1 + above))
    if method in CONSTANT:
        return round(N_WEIGHTS * (1 - SPARSITY))
    if method == "gradual":
        first, start, end = 0.0, 6, 18
    else:
        first, start, end = 0.5, 0, 20
    if not past:
        return round(N_WEIGHTS * (1 - first))
    left = max(1 - (past[-1] - start) / (end - start), 0.0)
    return round(N_WEIGHTS * (1 - (SPARSITY + (first - SPARSITY) * left**3)))


def check_gradients(net: nn.Module, updater: regrow.TopologyUpdater, *, dense: bool) -> None:
    """Between backward and step only live entries carry gradient, unless it shall be read."""
    parameters = dict(net.named_parameters())
    in_dead = {
        name: parameters[name].grad[~topology.mask].count_nonzero().item()
        for name, topology in updater.topologies.items()
        if not topology.mask.all()
    }
    if dense:
        assert sum(in_dead.values()) > 100, in_dead
    else:
        assert not any(in_dead.values()), in_dead
    assert all(p.grad.any() for n, p in parameters.items() if n not in updater.topologies)


@pytest.mark.parametrize(("method", "optimizer_name"), TABLE)
def test_invariants_at_every_step(method: str, optimizer_name: str) -> None:
    net = tiny_net()
    make = ALL[optimizer_name]
    optimizer = make(net.parameters())
    fresh = fresh_state(make, net)
    updater = METHODS[method](net, optimizer, seed=5)
    assert list(updater.topologies) == SELECTED
    start, before = counts_of(updater), masks_of(updater)
    first, moved_at, n_compared = before, [], 0
    assert sum(start.values()) == held(method, 0)
    due = due_steps(method)
    for i, batch in enumerate(batches(N_STEPS), start=1):
        loss_of(net, batch).backward()
        check_gradients(net, updater, dense=i in due and method in READS_GRADIENT)
        for one in as_list(optimizer):
            one.step()
        after = masks_of(updater)
        if any(not torch.equal(after[name], before[name]) for name in SELECTED):
            moved_at.append(i)
        for name, topology in updater.topologies.items():
            grad = net.get_parameter(name).grad
            assert grad is None or not grad[~topology.mask].any()
        n_compared += check_dead(net, optimizer, updater, fresh)
        counts = counts_of(updater)
        assert sum(counts.values()) == updater.nnz == held(method, i), i
        if method in CONSTANT:
            assert counts == start, i
        before = after
        for one in as_list(optimizer):
            one.zero_grad()
    assert updater.steps == N_STEPS
    assert moved_at == due, "rewirings happen when they are due, and only then"
    assert [record.step for record in updater.history] == due
    assert updater.nnz == round(N_WEIGHTS * (1 - SPARSITY))
    assert n_compared >= 3 * (N_STEPS - len(due))
    n_born = sum(int((before[n] & ~first[n]).sum()) for n in SELECTED)
    if method in {"set", "rigl"}:
        assert n_born > 50, "connections that were not there at first"
    if method in {"static", "gradual"}:
        assert n_born == 0
        assert updater.exploration == held(method, 0) / N_WEIGHTS
    else:
        assert updater.exploration > held(method, 0) / N_WEIGHTS + 0.02


@pytest.mark.parametrize("updater_first", [True, False])
@pytest.mark.parametrize(("method", "optimizer_name"), TABLE)
def test_resume_bit_for_bit(
    method: str, optimizer_name: str, updater_first: bool, tmp_path: Path
) -> None:
    make, data = ALL[optimizer_name], batches(N_STEPS)
    net = tiny_net()
    optimizer = make(net.parameters())
    updater = METHODS[method](net, optimizer, seed=5)
    middle = 2 * INTERVAL + 2
    for batch in data[:middle]:
        step(net, optimizer, batch)
    path = tmp_path / "checkpoint.pt"
    states = {
        "model": net.state_dict(),
        "optimizers": [one.state_dict() for one in as_list(optimizer)],
        "updater": updater.state_dict(),
    }
    torch.save(states, path)
    losses = [step(net, optimizer, batch) for batch in data[middle:]]

    torch.manual_seed(987)  # whatever the global generator does must not matter
    again = tiny_net(seed=33)
    optimizer_again = make(again.parameters())
    updater_again = METHODS[method](again, optimizer_again, seed=1234)
    loaded = torch.load(path, weights_only=True)
    if updater_first:
        updater_again.load_state_dict(loaded["updater"])
    again.load_state_dict(loaded["model"])
    for one, state in zip(as_list(optimizer_again), loaded["optimizers"], strict=True):
        one.load_state_dict(state)
    if not updater_first:
        updater_again.load_state_dict(loaded["updater"])
    assert updater_again.steps == middle
    losses_again = [step(again, optimizer_again, batch) for batch in data[middle:]]
    assert losses == losses_again
    assert same(snapshot(net, optimizer), snapshot(again, optimizer_again))
    assert dict(updater.topologies) == dict(updater_again.topologies)
    assert updater.history == updater_again.history
    assert updater.exploration == updater_again.exploration
    assert updater.report() == updater_again.report()


@pytest.mark.parametrize("optimizer_name", sorted(ALL))
def test_static_training_is_plain_training_with_masks_applied_by_hand(optimizer_name: str) -> None:
    make, data = ALL[optimizer_name], batches(12)
    net = tiny_net()
    optimizer = make(net.parameters())
    updater = regrow.static(net, optimizer, sparsity=SPARSITY, seed=2)
    masks = masks_of(updater)

    plain = tiny_net()
    by_hand = make(plain.parameters())
    live = {n: masks.get(n, torch.ones_like(p, dtype=torch.bool)) for n, p in _named(plain)}
    with torch.no_grad():
        for name, parameter in _named(plain):
            parameter.mul_(live[name])
    for batch in data:
        step(net, optimizer, batch)
        loss_of(plain, batch).backward()
        for name, parameter in _named(plain):
            parameter.grad.mul_(live[name])
        for one in as_list(by_hand):
            one.step()
            one.zero_grad()
        with torch.no_grad():
            for name, parameter in _named(plain):
                parameter.mul_(live[name])
                if optimizer_name == "muon+adamw":  # moves entries whose gradient is zero
                    for one in as_list(by_hand):
                        for value in one.state.get(parameter, {}).values():
                            if value.shape == parameter.shape:
                                value.mul_(live[name])
    for (name, a), (_, b) in zip(_named(net), _named(plain), strict=True):
        assert torch.equal(a, b), name
    assert net.norm.weight.detach().all()


def _named(net: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(net.named_parameters())


@pytest.mark.parametrize("method", [m for m in METHODS if m != "static"])
def test_seed_decides_and_global_generator_is_left_alone(method: str) -> None:
    def run(seed: int, noise: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        torch.manual_seed(noise)
        net = tiny_net()
        optimizer = OPTIMIZERS["sgd"](net.parameters())
        untouched = torch.random.get_rng_state()
        updater = METHODS[method](net, optimizer, seed=seed)
        first = masks_of(updater)
        for batch in batches(N_STEPS):
            step(net, optimizer, batch)
        assert torch.equal(untouched, torch.random.get_rng_state())
        return first, masks_of(updater)

    reference = run(3, noise=0)
    again = run(3, noise=1)
    other = run(4, noise=0)
    for one, two in zip(reference, again, strict=True):
        assert all(torch.equal(one[n], two[n]) for n in one)
    if method != "gradual":  # starts dense, and decides by magnitude alone
        for one, two in zip(reference, other, strict=True):
            assert any(not torch.equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_small_problem_is_learnt(method: str) -> None:
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    METHODS[method](net, optimizer, seed=0)
    batch = batches(1)[0]
    losses = [step(net, optimizer, batch) for _ in range(N_STEPS)]
    assert losses[-1] < 0.3 * losses[0]
    assert math.isfinite(losses[-1])
