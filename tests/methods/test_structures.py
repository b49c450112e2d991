"""Every method with every structure: it trains as declared, or says at once why it cannot."""

import io
import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from method_cases import (
    CONSTANT,
    METHODS,
    NAMES,
    PER_LAYER,
    READS_GRADIENT,
    SCHEDULE,
    batches,
    build,
    declared,
    due_steps,
    make_net,
    target,
)
from structure_cases import CASES
from tiny_cases import (
    METHOD_NAMES,
    OPTIMIZERS,
    as_list,
    check_dead,
    fresh_state,
    loss_of,
    masks_of,
    muon_and_adamw,
    same,
    snapshot,
    step,
)
from torch import nn

import regrow
from regrow.allocation import allocate_counts, erdos_renyi_kernel
from regrow.errors import SparsityError
from regrow.methods import structures_of
from regrow.topology import Structure, Topology, spread_over_groups, unit_size

N_RUN, MIDDLE = 14, 6
DATA = batches(N_RUN)
ALL = {
    "sgd": OPTIMIZERS["sgd"],
    "adamw": OPTIMIZERS["adamw"],
    "muon+adamw": muon_and_adamw,
}
PAIRS = list(itertools.product(METHODS, CASES))
TAKEN = [(m, s) for m, s in PAIRS if declared(m, CASES[s].structure)]
REFUSED = [pair for pair in PAIRS if pair not in TAKEN]
# Every pair once, with one optimizer or the other; and more of them where structures matter most.
TABLE = [(m, s, ("sgd", "adamw")[i % 2]) for i, (m, s) in enumerate(TAKEN)]
TABLE += [(m, s, ("adamw", "sgd")[i % 2]) for i, (m, s) in enumerate(TAKEN) if m == "rigl"]
TABLE += [(m, s, "muon+adamw") for m, s in TAKEN if m == "set"]


# -- what is declared ------------------------------------------------------------------------


def test_every_method_declares_what_it_takes() -> None:
    assert {name for name, _ in METHODS.values()} == set(METHOD_NAMES)
    for name in METHOD_NAMES:
        assert structures_of(name) == structures_of(getattr(regrow, name))
        assert structures_of(name).method == name
    with pytest.raises(ValueError, match=r"method must be one of static, .*; got 'sparse'"):
        structures_of("sparse")
    for name in ("static", "set_training", "rigl", "mest"):
        with pytest.raises(ValueError, match=f"{name} takes no budget"):
            structures_of(name, **PER_LAYER)


def test_what_is_declared() -> None:
    every = set(CASES)
    fixed = {"nm-2:4", "nm-1:2", "nm-4:4"}
    even = {"fan-in", "kernel-fan-in"}
    taken = {m: {s for one, s in TAKEN if one == m} for m in METHODS}
    for method in ("static", "set", "rigl"):
        assert taken[method] == every
    for method in ("mest-random", "mest-gradient", "granet-per-layer", "gradual-per-layer"):
        assert taken[method] == every - fixed
    for method in ("granet-random", "granet-gradient", "gradual"):
        assert taken[method] == every - fixed - even


# -- what is not declared raises, and nothing has changed ------------------------------------


@pytest.mark.parametrize(("method", "name"), REFUSED)
def test_what_is_not_declared_raises_before_anything_changes(method: str, name: str) -> None:
    structure = CASES[name].structure
    net = make_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    before = snapshot(net, optimizer)
    with pytest.raises(SparsityError) as caught:
        build(method, structure, net, optimizer)
    message = str(caught.value)
    assert METHODS[method][0] in message
    assert str(structure) in message
    if structure.fixed_sparsity is not None:
        assert "use a method that keeps counts (static, set_training, rigl)" in message
    else:
        assert "budget=regrow.per_layer(allocation=" in message
    assert same(snapshot(net, optimizer), before)
    assert not optimizer._optimizer_step_pre_hooks
    assert not net._forward_pre_hooks
    build("rigl", structure, net, optimizer)  # and the net is still free


@pytest.mark.parametrize("wrong", [None, "kernel", regrow.Kernel, regrow.NM, 4])
def test_what_is_no_structure_is_refused(wrong: Any) -> None:
    net = make_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    for name in METHOD_NAMES:
        schedule = {} if name == "static" else SCHEDULE
        with pytest.raises(TypeError, match="structure must be a structure, got") as caught:
            getattr(regrow, name)(net, optimizer, sparsity=0.5, structure=wrong, **schedule)
        assert not isinstance(wrong, type) or f"as in {wrong.__name__}()" in str(caught.value)
    with pytest.raises(TypeError, match="structure must be a structure"):
        regrow.fitting(wrong)
    if wrong is not None:
        with pytest.raises(TypeError, match="structure must be a structure"):
            allocate_counts({"a": (4, 8)}, 0.5, erdos_renyi_kernel(), structure=wrong)


# -- what is declared trains -----------------------------------------------------------------


def wanted_counts(method: str, updater: regrow.TopologyUpdater, after: int) -> dict[str, Any]:
    """Of methods that give each layer its own count: units of each group."""
    structures = {name: t.structure for name, t in updater.topologies.items()}
    shapes = {name: t.shape for name, t in updater.topologies.items()}
    all_fixed = all(one.fixed_sparsity is not None for one in structures.values())
    counts = allocate_counts(
        shapes,
        None if all_fixed else target(method, after),
        erdos_renyi_kernel(),
        structure=structures,
    )
    return {
        name: spread_over_groups(structures[name], counts[name], topology.room).tolist()
        for name, topology in updater.topologies.items()
    }


def check_counts(method: str, updater: regrow.TopologyUpdater, after: int) -> None:
    if not method.startswith(("granet", "gradual")) or "per-layer" in method:
        wanted = wanted_counts(method, updater, after)
        for name, topology in updater.topologies.items():
            assert count_groups(topology) == wanted[name], (name, after)
        return
    n_all = sum(t.n_elements for t in updater.topologies.values())
    budget = round(n_all * (1 - target(method, after)))
    largest = max(unit_size(t.structure, t.shape) for t in updater.topologies.values())
    if target(method, after) == target(method, 0):
        assert abs(updater.nnz - budget) <= largest / 2 + 1  # allocated: to the nearest
    else:
        assert budget - largest < updater.nnz <= budget, after


def count_groups(topology: Topology) -> list[int]:
    """Units of each group, counted element by element in the mask."""
    structure, shape = topology.structure, topology.shape
    elements = topology.mask.flatten().nonzero().squeeze(1)
    groups = structure.group_of(structure.unit_of(elements, shape), shape)
    counts = torch.bincount(groups, minlength=structure.n_groups(shape))
    size = unit_size(structure, shape)
    assert not (counts % size).any()
    return (counts // size).tolist()


def check_gradients(net: nn.Module, updater: regrow.TopologyUpdater, *, dense: bool) -> None:
    dead = [net.get_parameter(n).grad[~t.mask] for n, t in updater.topologies.items()]
    outside = sum(int(grad.count_nonzero()) for grad in dead)
    n_dead = sum(grad.numel() for grad in dead)
    assert outside > n_dead / 3 if dense else outside == 0


@pytest.mark.parametrize(("method", "name", "optimizer_name"), TABLE)
def test_declared_structures_train(method: str, name: str, optimizer_name: str) -> None:
    structure, make = CASES[name].structure, ALL[optimizer_name]
    net = make_net()
    optimizer = make(net.parameters())
    fresh = fresh_state(make, net)
    updater = build(method, structure, net, optimizer)
    assert [n for n in NAMES if n in updater.topologies] == list(updater.topologies)
    assert len(updater.topologies) == (4 if name == "own-pairs" else 6)
    first, due = masks_of(updater), due_steps(method)
    check_counts(method, updater, 0)
    before, moved, n_compared, saved = first, [], 0, b""
    for i, batch in enumerate(DATA, start=1):
        loss_of(net, batch).backward()
        reads = i in due and method in READS_GRADIENT and name != "nm-4:4"
        check_gradients(net, updater, dense=reads)
        for one in as_list(optimizer):
            one.step()
        after = masks_of(updater)
        if any(not torch.equal(after[n], before[n]) for n in after):
            moved.append(i)
        n_compared += check_dead(net, optimizer, updater, fresh)
        check_counts(method, updater, i)
        before = after
        for one in as_list(optimizer):
            one.zero_grad()
        if i == MIDDLE:
            saved = state_of(net, optimizer, updater)
    assert n_compared >= N_RUN
    assert [record.step for record in updater.history] == [d for d in due if d <= N_RUN]
    assert set(moved) <= set(due)
    if name == "nm-4:4" or method == "static":
        assert not moved
    else:
        assert moved
        grows = not method.startswith("gradual")
        n_born = sum(int((before[n] & ~first[n]).sum()) for n in first)
        assert bool(n_born) == grows, "connections that were not there at first"
    assert_resumes(method, structure, make, saved, (net, optimizer, updater))


def state_of(net: nn.Module, optimizer: Any, updater: regrow.TopologyUpdater) -> bytes:
    buffer = io.BytesIO()
    states = {
        "model": net.state_dict(),
        "optimizers": [one.state_dict() for one in as_list(optimizer)],
        "updater": updater.state_dict(),
    }
    torch.save(states, buffer)
    return buffer.getvalue()


def assert_resumes(
    method: str, structure: Structure, make: Any, saved: bytes, finished: Iterable[Any]
) -> None:
    net, optimizer, updater = finished
    again = make_net(seed=33)
    optimizer_again = make(again.parameters())
    updater_again = build(method, structure, again, optimizer_again, seed=1234)
    loaded = torch.load(io.BytesIO(saved), weights_only=True)
    updater_again.load_state_dict(loaded["updater"])
    again.load_state_dict(loaded["model"])
    for one, state in zip(as_list(optimizer_again), loaded["optimizers"], strict=True):
        one.load_state_dict(state)
    for batch in DATA[MIDDLE:]:
        step(again, optimizer_again, batch)
    assert same(snapshot(net, optimizer), snapshot(again, optimizer_again))
    assert dict(updater.topologies) == dict(updater_again.topologies)
    assert updater.history == updater_again.history
    assert updater.report() == updater_again.report()


@pytest.mark.parametrize("name", CASES)
def test_plan_and_report_name_the_structure(name: str) -> None:
    structure = CASES[name].structure
    net = make_net()
    updater = build("rigl", structure, net, OPTIMIZERS["sgd"](net.parameters()))
    plan = str(updater.plan(DATA[0][0]))
    assert str(structure) in plan or name == "unstructured"
    if name != "own-pairs":
        assert f"{structure} of a transposed convolution" in plan or name == "unstructured"
    step(net, OPTIMIZERS["sgd"](net.parameters()), DATA[0])
    assert updater.report().nnz == updater.nnz
    assert updater.training_flops(DATA[0][0]) == 0, "no step of its own optimizer yet"


# -- sparsity and what fixes it --------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [None, 0.5])
@pytest.mark.parametrize("method", sorted(CONSTANT))
def test_what_a_structure_fixes_may_be_said_again(method: str, sparsity: float | None) -> None:
    net, (name, options) = make_net(), METHODS[method]
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = getattr(regrow, name)(
        net, optimizer, sparsity=sparsity, structure=regrow.NM(2, 4), **options
    )
    assert updater.sparsity == 0.5


@pytest.mark.parametrize("sparsity", [0.4, 0.49, 0.501, 0.9, 0.0])
@pytest.mark.parametrize("method", sorted(CONSTANT))
def test_another_sparsity_than_the_structure_fixes_raises(method: str, sparsity: float) -> None:
    net, (name, options) = make_net(), METHODS[method]
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    before = snapshot(net, optimizer)
    message = rf"sparsity={sparsity:g}, but NM\(n=2, m=4\) gives 0\.5: pass sparsity=None"
    with pytest.raises(SparsityError, match=message):
        getattr(regrow, name)(
            net, optimizer, sparsity=sparsity, structure=regrow.NM(2, 4), **options
        )
    assert same(snapshot(net, optimizer), before)


def test_an_allocation_has_no_say_where_the_structure_fixes_it() -> None:
    net = make_net()
    with pytest.raises(SparsityError, match=r"allocation=uniform\(\) has no effect: NM"):
        regrow.static(
            net,
            OPTIMIZERS["sgd"](net.parameters()),
            sparsity=0.5,
            structure=regrow.NM(2, 4),
            allocation=regrow.uniform(),
        )


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if (5, 7) in case.refuses])
def test_weights_that_do_not_fit_are_all_named(name: str) -> None:
    structure = CASES[name].structure
    net = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 7), nn.Linear(7, 12))
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    before = snapshot(net, optimizer)
    with pytest.raises(SparsityError, match=r"the weight '0.weight' \(and .*'1.weight'"):
        regrow.static(net, optimizer, sparsity=None, structure=structure)
    assert same(snapshot(net, optimizer), before)
