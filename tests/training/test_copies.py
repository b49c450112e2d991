"""Copies: of the triple, of the model alone, averaged ones; and letting go."""

import copy
import gc
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_cases import (
    METHODS,
    MORE_OPTIMIZERS,
    OPTIMIZERS,
    as_list,
    batches,
    loss_of,
    masks_of,
    same,
    snapshot,
    step,
    tiny_net,
)
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import regrow
from regrow.errors import SparsityError

DATA = batches(14)


def trained(method: str = "rigl", optimizer: str = "sgd", n: int = 6) -> tuple[Any, Any, Any]:
    net = tiny_net()
    one = {**OPTIMIZERS, **MORE_OPTIMIZERS}[optimizer](net.parameters())
    updater = METHODS[method](net, one, seed=5)
    for batch in DATA[:n]:
        step(net, one, batch)
    return net, one, updater


def finish(net: nn.Module, optimizer: Any, updater: Any) -> list[Any]:
    for batch in DATA[6:]:
        step(net, optimizer, batch)
    assert updater.steps == len(DATA)
    return [snapshot(net, optimizer), masks_of(updater), updater.history, updater.exploration]


def assert_equal(a: list[Any], b: list[Any]) -> None:
    assert same(a[0], b[0])
    assert all(torch.equal(a[1][n], b[1][n]) for n in a[1])
    assert a[2:] == b[2:]


@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw", "muon+adamw"])
@pytest.mark.parametrize("method", ["rigl", "set", "granet-gradient", "static"])
def test_a_copied_triple_goes_on_by_itself(method: str, optimizer_name: str) -> None:
    net, optimizer, updater = trained(method, optimizer_name)
    net2, optimizer2, updater2 = copy.deepcopy((net, optimizer, updater))
    before = [snapshot(net, optimizer), masks_of(updater)]
    from_copy = finish(net2, optimizer2, updater2)
    assert same(before[0], snapshot(net, optimizer)), "the copy is independent"
    assert all(torch.equal(before[1][n], m) for n, m in masks_of(updater).items())
    assert updater.steps == 6
    assert_equal(from_copy, finish(net, optimizer, updater))


def test_the_order_within_the_copied_container_does_not_matter() -> None:
    net, optimizer, updater = trained()
    made = copy.deepcopy({"updater": updater, "optimizer": optimizer, "net": net})
    again = copy.deepcopy(made)
    one = finish(made["net"], made["optimizer"], made["updater"])
    two = finish(again["net"], again["optimizer"], again["updater"])
    assert_equal(one, two)
    assert_equal(one, finish(net, optimizer, updater))


def test_callbacks_of_original_and_copy_are_their_own() -> None:
    net, optimizer, updater = trained()
    seen: list[str] = []
    updater.on_rewire(lambda record: seen.append("both"))
    net2, optimizer2, updater2 = copy.deepcopy((net, optimizer, updater))
    updater2.on_rewire(lambda record: seen.append("copy"))
    for batch in DATA[6:8]:
        step(net, optimizer, batch)
    assert seen == ["both"]
    for batch in DATA[6:8]:
        step(net2, optimizer2, batch)
    assert seen == ["both", "both", "copy"]


def test_a_copied_model_alone_is_plain_and_dense() -> None:
    net, optimizer, updater = trained()
    lone = copy.deepcopy(net)
    own = torch.optim.SGD(lone.parameters(), lr=0.1)
    topology = updater.topologies["fc.weight"]
    loss_of(lone, DATA[0]).backward()
    assert lone.fc.weight.grad[~topology.mask].any()
    own.step()
    assert lone.fc.weight.detach()[~topology.mask].any(), "nothing keeps it sparse"
    assert updater.steps == 6
    lone.load_state_dict(dict(net.state_dict()), assign=True)
    lone(DATA[0][0])  # its guard guards nothing
    net.load_state_dict({n: v.clone() for n, v in net.state_dict().items()}, assign=True)
    lone(DATA[0][0])  # nor does the original's guard reach it
    fresh = copy.deepcopy(net)  # and may be made sparse by a new call
    again = regrow.static(fresh, torch.optim.SGD(fresh.parameters(), lr=0.1), sparsity=0.5)
    assert again.nnz == round(0.5 * (216 + 2048 + 256 + 64))
    assert optimizer.state  # the original's optimizer is untouched


def test_a_whole_model_can_be_pickled(tmp_path: Path) -> None:
    net, optimizer, updater = trained()
    torch.save({"net": net, "optimizer": optimizer}, tmp_path / "whole.pt")
    loaded = torch.load(tmp_path / "whole.pt", weights_only=False)
    assert torch.equal(loaded["net"](DATA[0][0]), net(DATA[0][0]))
    with pytest.raises(TypeError, match="save state_dict"):
        pickle.dumps(updater)


# -- averaged copies -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rigl", "set", "gradual"])
def test_an_average_that_is_followed_stays_in_the_topology(method: str) -> None:
    net, optimizer, updater = trained(method, n=0)
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    left_alone = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    updater.follow(averaged)
    for batch in DATA:
        step(net, optimizer, batch)
        averaged.update_parameters(net)
        left_alone.update_parameters(net)
        for name, topology in updater.topologies.items():
            ours = averaged.module.get_parameter(name).detach()
            assert not ours[~topology.mask].any(), name
    if method != "gradual":
        stray = left_alone.module.fc.weight.detach()[~updater.topologies["fc.weight"].mask]
        assert stray.any(), "without following it would leave the topology: no test"
    kept = averaged.module.fc.weight.detach()[updater.topologies["fc.weight"].mask]
    assert kept.count_nonzero() > 0.5 * kept.numel()
    assert torch.equal(averaged.module.fc.bias, left_alone.module.fc.bias)


def test_following_starts_at_once_and_after_a_load() -> None:
    net, optimizer, updater = trained(n=6)
    dense = AveragedModel(tiny_net(seed=9))
    updater.follow(dense)
    topology = updater.topologies["fc.weight"]
    assert not dense.module.fc.weight.detach()[~topology.mask].any()
    state = updater.state_dict()
    for batch in DATA[6:]:
        step(net, optimizer, batch)
    with torch.no_grad():
        dense.module.fc.weight.fill_(1.0)
    updater.load_state_dict(state)
    assert torch.equal(dense.module.fc.weight.detach() != 0, updater.topologies["fc.weight"].mask)


def test_a_copied_quadruple_follows_its_own_average() -> None:
    net, optimizer, updater = trained(n=6)
    averaged = AveragedModel(net)
    updater.follow(averaged)
    net2, optimizer2, updater2, averaged2 = copy.deepcopy((net, optimizer, updater, averaged))
    untouched = [p.detach().clone() for p in averaged.parameters()]
    for batch in DATA[6:]:
        step(net2, optimizer2, batch)
        averaged2.update_parameters(net2)
    for name, topology in updater2.topologies.items():
        assert not averaged2.module.get_parameter(name).detach()[~topology.mask].any()
    assert all(torch.equal(p, q) for p, q in zip(averaged.parameters(), untouched, strict=True))


def test_following_something_else_is_refused() -> None:
    _, _, updater = trained(n=0)
    other = nn.Sequential(nn.Linear(4, 4))
    before = snapshot(other, [])
    with pytest.raises(SparsityError, match=r"'conv\.weight' is missing there"):
        updater.follow(other)
    wrong = tiny_net()
    wrong.mid = nn.Linear(16, 8)
    weights = snapshot(wrong, [])
    with pytest.raises(SparsityError, match=r"'mid\.weight' is of shape \(8, 16\) there"):
        updater.follow(wrong)
    assert same(before, snapshot(other, []))
    assert same(weights, snapshot(wrong, []))


# -- letting go ------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer_name", ["sgd", "muon+adamw"])
def test_detach_leaves_a_plain_model(optimizer_name: str) -> None:
    net, optimizer, updater = trained("rigl", optimizer_name)
    masks, weights = masks_of(updater), snapshot(net, [])
    updater.detach()
    assert same(weights, snapshot(net, []))
    step(net, optimizer, DATA[6])
    assert updater.steps == 6
    assert net.fc.weight.detach()[~masks["fc.weight"]].any()
    for one in as_list(optimizer):
        assert not one._optimizer_step_pre_hooks
        assert not one._optimizer_step_post_hooks
    assert not net._forward_pre_hooks
    assert all(not p._post_accumulate_grad_hooks for p in net.parameters())
    updater.detach()  # twice does no harm
    again = regrow.static(net, optimizer, sparsity=0.9)
    step(net, optimizer, DATA[7])
    assert again.steps == 1
    assert not net.fc.weight.detach()[~again.topologies["fc.weight"].mask].any()


@pytest.mark.parametrize("method", ["static", "rigl"])
def test_nothing_keeps_a_forgotten_model_alive(method: str) -> None:
    """A study trains many models in one process: each must be freed, without detach()."""
    net, optimizer, updater = trained(method)
    alive = weakref.ref(net)
    del net, optimizer, updater
    gc.collect()
    assert alive() is None


def test_hooks_live_without_the_updater() -> None:
    """``regrow.rigl(model, optimizer, ...)`` need not be assigned to anything."""
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    mask = METHODS["static"](net, optimizer, seed=5).topologies["fc.weight"].mask
    gc.collect()
    step(net, optimizer, DATA[0])
    loss_of(net, DATA[1]).backward()
    assert not net.fc.weight.grad[~mask].any()
    assert not net.fc.weight.detach()[~mask].any()
