"""Parts of one model under one updater: each as it would be alone."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from part_cases import four_parts, rigl_part, sgd
from tiny_cases import (
    OPTIMIZERS,
    batches,
    check_dead,
    counts_of,
    fresh_state,
    loss_of,
    masks_of,
    same,
    snapshot,
    step,
    tiny_net,
)
from torch import nn

import regrow
from regrow import part
from regrow.errors import SparsityError

SELECTED = ["conv.weight", "fc.weight", "mid.weight", "head.weight"]


DUE = {
    "conv.weight": [3, 6, 9, 12],
    "fc.weight": [4, 8, 12, 16],
    "mid.weight": [5, 10],
    "head.weight": [],
}


def run(
    net: nn.Module, optimizer: Any, updater: Any, n: int, *, start: int = 0
) -> dict[str, list[int]]:
    """Steps, counted from 1, on which each layer's mask changed."""
    changed: dict[str, list[int]] = {name: [] for name in updater.topologies}
    for i, batch in enumerate(batches(20)[start : start + n], start=start + 1):
        before = masks_of(updater)
        step(net, optimizer, batch)
        for name, mask in masks_of(updater).items():
            if not torch.equal(mask, before[name]):
                changed[name].append(i)
    return changed


@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
def test_methods_sparsities_and_structures_side_by_side(optimizer_name: str) -> None:
    net, make = tiny_net(), OPTIMIZERS[optimizer_name]
    optimizer = make(net.parameters())
    fresh = fresh_state(make, net)
    updater = regrow.combine(net, optimizer, four_parts(), seed=3)
    assert list(updater.topologies) == SELECTED
    structures = [t.structure for t in updater.topologies.values()]
    assert structures == [
        regrow.Kernel(),
        regrow.ChannelGroups(4),
        regrow.NM(1, 4),
        regrow.Unstructured(),
    ]
    assert list(counts_of(updater).values()) == [12 * 9, 1024, 64, 48]
    for i, batch in enumerate(batches(18), start=1):
        before = masks_of(updater)
        loss_of(net, batch).backward()
        for name, topology in updater.topologies.items():
            outside = net.get_parameter(name).grad[~topology.mask]
            reads = name == "conv.weight" and i in DUE[name]
            assert bool(outside.any()) == reads, "dense only where it is read, and when"
        optimizer.step()
        optimizer.zero_grad()
        check_dead(net, optimizer, updater, fresh)
        for name, mask in masks_of(updater).items():
            assert torch.equal(mask, before[name]) or i in DUE[name], (name, i)
        counts = counts_of(updater)
        assert (counts["conv.weight"], counts["mid.weight"], counts["head.weight"]) == (108, 64, 48)
    assert counts["fc.weight"] == round(0.2 * 2048)
    took = {n: [r.step for r in updater.history if r.took_part[i]] for i, n in enumerate(SELECTED)}
    assert took == DUE
    assert updater.rewirings == len({due for one in DUE.values() for due in one})


def test_layers_rewire_when_their_own_part_is_due() -> None:
    net = tiny_net()
    optimizer = sgd(net)
    updater = regrow.combine(net, optimizer, four_parts(), seed=3)
    changed = run(net, optimizer, updater, 18)
    assert changed["fc.weight"] == DUE["fc.weight"]
    assert changed["mid.weight"] == DUE["mid.weight"]
    assert changed["conv.weight"]
    assert set(changed["conv.weight"]) <= set(DUE["conv.weight"])
    assert changed["head.weight"] == []


# -- as two updaters -------------------------------------------------------------------------

TWO: dict[str, tuple[tuple[Callable[..., Any], dict[str, Any]], ...]] = {
    "rigl and set": (
        (regrow.rigl, {"sparsity": 0.8, "n_steps": 20, "interval": 3, "weight_step": "before"}),
        (regrow.set_training, {"sparsity": 0.6, "n_steps": 20, "interval": 4}),
    ),
    "granet and mest": (
        (regrow.granet, {"sparsity": 0.8, "n_steps": 20, "interval": 3}),
        (regrow.mest, {"sparsity": 0.6, "n_steps": 20, "interval": 3, "growth": "gradient"}),
    ),
    "gradual and static": (
        (regrow.gradual, {"sparsity": 0.8, "n_steps": 20, "interval": 2}),
        (regrow.static, {"sparsity": 0.6}),
    ),
    "rigl in place of the step, and static": (
        (regrow.rigl, {"sparsity": 0.8, "n_steps": 20, "interval": 3}),
        (regrow.static, {"sparsity": None, "structure": regrow.NM(2, 4)}),
    ),
}
HALVES = (["conv.weight", "fc.weight"], ["mid.weight", "head.weight"])


@pytest.mark.parametrize("name", TWO)
def test_equal_to_updaters_of_their_own(name: str) -> None:
    net, apart = tiny_net(), tiny_net()
    optimizer, optimizer_apart = sgd(net), sgd(apart)
    parts = [part(m, select=s, **k) for (m, k), s in zip(TWO[name], HALVES, strict=True)]
    together = regrow.combine(net, optimizer, parts, seed=7)
    updaters = [
        method(apart, optimizer_apart, select=select, seed=7, **options)
        for (method, options), select in zip(TWO[name], HALVES, strict=True)
    ]
    for batch in batches(18):
        step(net, optimizer, batch)
        step(apart, optimizer_apart, batch)
        alone = masks_of(updaters[0]) | masks_of(updaters[1])
        for layer, mask in masks_of(together).items():
            assert torch.equal(mask, alone[layer]), layer
    assert same(snapshot(net, optimizer), snapshot(apart, optimizer_apart))
    rewirings = {record.step for one in updaters for record in one.history}
    assert {record.step for record in together.history} == rewirings
    # The same layers in the report, and the budget of each part in its own layers.
    rows = [row for one in updaters for row in one.report().layers]
    assert list(together.report().layers) == rows


def test_one_part_is_the_method_itself() -> None:
    net, alone = tiny_net(), tiny_net()
    optimizer, optimizer_alone = sgd(net), sgd(alone)
    options = {"sparsity": 0.7, "n_steps": 20, "interval": 3}
    parts = [part(regrow.rigl, select=SELECTED, **options)]
    combined = regrow.combine(net, optimizer, parts, seed=1)
    single = regrow.rigl(alone, optimizer_alone, select=SELECTED, seed=1, **options)
    for batch in batches(14):
        step(net, optimizer, batch)
        step(alone, optimizer_alone, batch)
    assert same(snapshot(net, optimizer), snapshot(alone, optimizer_alone))
    assert combined.report() == single.report()
    assert combined.history == single.history
    assert combined.state_dict().keys() == single.state_dict().keys()
    x = batches(1)[0][0]
    assert combined.training_flops(x) == single.training_flops(x)
    assert str(combined.plan(x)) == str(single.plan(x))


# -- state -----------------------------------------------------------------------------------


@pytest.mark.parametrize("middle", [1, 5, 8, 13])
def test_resume_bit_for_bit(middle: int) -> None:
    net = tiny_net()
    optimizer = sgd(net)
    updater = regrow.combine(net, optimizer, four_parts(), seed=3)
    run(net, optimizer, updater, middle)
    buffer = io.BytesIO()
    torch.save([net.state_dict(), optimizer.state_dict(), updater.state_dict()], buffer)
    run(net, optimizer, updater, 18 - middle, start=middle)
    again = tiny_net(seed=9)
    optimizer_again = sgd(again)
    updater_again = regrow.combine(again, optimizer_again, four_parts(), seed=99)
    loaded = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    for one, state in zip((again, optimizer_again, updater_again), loaded, strict=True):
        one.load_state_dict(state)
    run(again, optimizer_again, updater_again, 18 - middle, start=middle)
    assert same(snapshot(net, optimizer), snapshot(again, optimizer_again))
    assert updater.history == updater_again.history
    assert updater.report() == updater_again.report()


def test_a_state_of_other_parts_is_refused() -> None:
    net, other = tiny_net(), tiny_net()
    updater = regrow.combine(net, sgd(net), four_parts())
    single = regrow.static(other, sgd(other), sparsity=0.5)
    for one, state in ((updater, single.state_dict()), (single, updater.state_dict())):
        before = masks_of(one)
        with pytest.raises(SparsityError):
            one.load_state_dict(state)
        assert all(torch.equal(before[n], m) for n, m in masks_of(one).items())


def test_a_state_of_the_same_layers_in_other_parts_is_refused() -> None:
    def options(*selects: Any) -> Any:
        net = tiny_net()
        return regrow.combine(net, sgd(net), [rigl_part(select) for select in selects])

    two, one = options("fc.weight", "mid.weight"), options(["fc.weight", "mid.weight"])
    with pytest.raises(SparsityError, match="'overdue'"):
        one.load_state_dict(two.state_dict())
    other_way_round = options("mid.weight", "fc.weight")
    with pytest.raises(SparsityError, match="in another order"):
        other_way_round.load_state_dict(two.state_dict())


def test_a_copy_goes_its_own_way() -> None:
    net = tiny_net()
    optimizer = sgd(net)
    updater = regrow.combine(net, optimizer, four_parts(), seed=3)
    run(net, optimizer, updater, 7)
    net_2, optimizer_2, updater_2 = copy.deepcopy((net, optimizer, updater))
    run(net, optimizer, updater, 6, start=7)
    assert updater_2.steps == 7
    run(net_2, optimizer_2, updater_2, 6, start=7)
    assert same(snapshot(net, optimizer), snapshot(net_2, optimizer_2))
    assert updater.history == updater_2.history


# -- a gradient that is not finite -----------------------------------------------------------


def test_all_parts_that_are_due_wait_for_a_finite_gradient() -> None:
    """Three are due at step 4, and have to wait until 6; what is due at 7 and 8 is not moved."""
    net = tiny_net()
    optimizer = sgd(net)
    options = {"n_steps": 20, "weight_step": "before"}
    parts = [
        part(regrow.rigl, select="fc.weight", sparsity=0.8, interval=4, **options),
        part(regrow.rigl, select="mid.weight", sparsity=0.6, interval=4, **options),
        part(regrow.set_training, select="conv.weight", sparsity=0.6, interval=4, n_steps=20),
        part(regrow.rigl, select="head.weight", sparsity=0.5, interval=7, **options),
    ]
    updater = regrow.combine(net, optimizer, parts, seed=0)
    head = updater.topologies["head.weight"].indices[0]
    for i, batch in enumerate(batches(9), start=1):
        before = masks_of(updater)
        loss_of(net, batch).backward()
        if i in (4, 5):
            net.head.weight.grad.view(-1)[head] = torch.inf  # of a part that is not due itself
        kept = {n: p.detach().clone() for n, p in net.named_parameters()}
        optimizer.step()
        optimizer.zero_grad()
        if i in (4, 5):
            with torch.no_grad():  # what a scaler would have kept out
                for name, parameter in net.named_parameters():
                    parameter.copy_(kept[name])
            optimizer.state.clear()
        after = masks_of(updater)
        moved = {n for n in after if not torch.equal(after[n], before[n])}
        if i in (4, 5):
            assert not moved
        elif i in (6, 8):
            assert moved == {"fc.weight", "mid.weight", "conv.weight"}, i
        else:
            assert moved <= ({"head.weight"} if i == 7 else set()), i
    assert [record.step for record in updater.history] == [6, 7, 8]
    assert updater.history[0].took_part == (True, True, True, False)
    assert updater.history[1].took_part == (False, False, False, True)


# -- what is said of it ----------------------------------------------------------------------


def test_the_plan_speaks_of_each_part() -> None:
    net = tiny_net()
    updater = regrow.combine(net, sgd(net), four_parts())
    text = str(updater.plan(batches(1)[0][0]))
    for words in (
        "conv.weight, ...: 4 rewirings planned: every 3 steps",
        "fc.weight, ...: 4 rewirings planned: every 4 steps",
        "fc.weight, ...: sparsity at the last rewiring: 0.8",
        "mid.weight, ...: 2 rewirings planned: every 5 steps",
        "head.weight, ...: no rewiring: the topology stays",
    ):
        assert words in text, text
    for structure in ("Kernel", "ChannelGroups", "NM"):
        assert structure in text


def test_training_flops_count_a_dense_gradient_for_parts_that_read_it_and_were_due() -> None:
    net = tiny_net()
    optimizer = sgd(net)
    updater = regrow.combine(net, optimizer, four_parts())
    x = batches(1)[0][0]
    sizes = {n: t.n_elements for n, t in updater.topologies.items()}
    # Multiply and add, of 16 images; the convolution at 4 x 4 places. Nothing else multiplies.
    dense = {n: 2 * 16 * size * (16 if n == "conv.weight" else 1) for n, size in sizes.items()}
    want = 0.0
    for i, batch in enumerate(batches(7), start=1):
        live = sum(dense[n] * c / sizes[n] for n, c in counts_of(updater).items())
        want += 3 * live
        if i in DUE["conv.weight"]:
            want += dense["conv.weight"] * (1 - 108 / sizes["conv.weight"])
        step(net, optimizer, batch)
    assert updater.training_flops(x) == pytest.approx(want, abs=2)
