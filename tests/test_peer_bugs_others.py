"""Silent bugs of other libraries, B15 to B19, as far as ours could have them.

Numbered as in our survey; each docstring says what the other library does wrong.
"""

import copy
import itertools

import pytest
import torch
from tiny_cases import (
    METHODS,
    OPTIMIZERS,
    batches,
    counts_of,
    loss_of,
    masks_of,
    same,
    snapshot,
    step,
    tiny_net,
)
from torch import nn

import regrow


@pytest.mark.parametrize("method", ["static", "set", "rigl"])
def test_b15_a_sparse_model_can_be_copied(method: str) -> None:
    """torch.nn.utils.prune: ``deepcopy`` of a pruned Sequential raises."""
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    updater = METHODS[method](net, optimizer)
    x = torch.randn(4, 8)
    net(x).sum().backward()  # with gradients at hand, too
    lone = copy.deepcopy(net)
    assert torch.equal(lone(x), net(x))
    optimizer.step()
    assert same(snapshot(copy.deepcopy(net), []), snapshot(net, []))
    again = copy.deepcopy((net, optimizer, updater))
    assert dict(again[2].topologies) == dict(updater.topologies)


def test_b15_nothing_decays_under_the_mask() -> None:
    """torch.nn.utils.prune: ``weight_orig`` under the mask goes on decaying."""
    net = tiny_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.9)
    updater = METHODS["static"](net, optimizer)
    for batch in batches(3):
        step(net, optimizer, batch)
    assert [n for n, _ in net.named_parameters()] == [n for n, _ in tiny_net().named_parameters()]
    for name, topology in updater.topologies.items():
        assert not net.get_parameter(name).detach()[~topology.mask].any()


def test_b15_tied_layers_are_sparse_together() -> None:
    """torch.nn.utils.prune: one of two tied layers is pruned, the other stays dense."""
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    net[2].weight = net[0].weight
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    updater = regrow.rigl(net, optimizer, sparsity=0.5, n_steps=20, interval=2)
    for _ in range(6):
        net(torch.randn(4, 8)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        dead = ~updater.topologies["0.weight"].mask
        assert not net[0].weight.detach()[dead].any()
        assert not net[2].weight.detach()[dead].any()
    assert net[2].weight is net[0].weight
    assert updater.rewirings == 3


def test_b17_growth_is_never_ignored() -> None:
    """GraNet: ``--growth random`` is accepted, and growth goes by gradient all the same."""
    results = {}
    for make, growth in itertools.product((regrow.granet, regrow.mest), ("random", "gradient")):
        net = tiny_net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        updater = make(
            net, optimizer, sparsity=0.7, n_steps=20, interval=2, growth=growth, regrow="never"
        )
        loss_of(net, batches(1)[0]).backward()
        optimizer.step()
        loss_of(net, batches(1)[0]).backward()
        dead = ~updater.topologies["fc.weight"].mask
        assert bool(net.fc.weight.grad[dead].any()) == (growth == "gradient")
        optimizer.step()
        results[make, growth] = masks_of(updater)
    for make in (regrow.granet, regrow.mest):
        a, b = results[make, "random"], results[make, "gradient"]
        assert any(not torch.equal(a[n], b[n]) for n in a)
    net = tiny_net()
    optimizer = torch.optim.SGD(net.parameters())
    with pytest.raises(ValueError, match="growth must be one of random, gradient; got 'momentum'"):
        regrow.granet(net, optimizer, sparsity=0.7, n_steps=500, growth="momentum")


def test_b18_random_growth_keeps_counts_exactly() -> None:
    """ITOP: each place is grown with a probability; one layer went from 1,242 to 1,557 weights."""
    net = nn.Sequential(nn.Linear(100, 60), nn.ReLU(), nn.Linear(60, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    updater = regrow.set_training(
        net,
        optimizer,
        sparsity=0.8,
        n_steps=500,
        interval=1,
        stop_at=1.0,
        drop_fraction=regrow.schedules.constant(0.5),
    )
    start = counts_of(updater)
    x = torch.randn(8, 100)
    for _ in range(200):
        net(x).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert counts_of(updater) == start
    assert updater.rewirings == 200


@pytest.mark.filterwarnings("ignore::regrow.errors.LayerCollapseWarning")  # all weights are alike
@pytest.mark.parametrize("method", ["set", "rigl", "granet-random", "granet-gradient", "gradual"])
def test_b18_ties_do_not_change_counts(method: str) -> None:
    """ITOP: drops by ``abs(w) > threshold``, which removes every weight at the threshold."""
    net = tiny_net()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.fill_(0.01)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    updater = METHODS[method](net, optimizer)
    for batch in batches(22):
        step(net, optimizer, batch)
        if method in ("set", "rigl"):
            assert updater.nnz == round(0.3 * 2584)
    assert updater.nnz == round(0.3 * 2584)


def test_b18_topologies_are_saved() -> None:
    """ITOP: masks are not in the checkpoint; after a resume others are drawn."""
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = METHODS["set"](net, optimizer)
    for batch in batches(9):
        step(net, optimizer, batch)
    state = updater.state_dict()
    again = tiny_net(seed=1)
    other = METHODS["set"](again, OPTIMIZERS["sgd"](again.parameters()), seed=77)
    other.load_state_dict(state)
    assert dict(other.topologies) == dict(updater.topologies)
    assert not again.fc.weight.detach()[~updater.topologies["fc.weight"].mask].any()


@pytest.mark.parametrize("method", [m for m in METHODS if m != "static"])
def test_b19_schedules_go_on_where_they_were(method: str) -> None:
    """cstorch: loading overwrites the saved schedule before reading it, and starts it again."""
    data = batches(22)
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = METHODS[method](net, optimizer)
    for batch in data[:11]:
        step(net, optimizer, batch)
    state = copy.deepcopy(updater.state_dict())
    kept = copy.deepcopy(state)
    again = tiny_net()
    optimizer2 = OPTIMIZERS["sgd"](again.parameters())
    other = METHODS[method](again, optimizer2)
    other.load_state_dict(state)
    assert repr(state) == repr(kept), "loading leaves the state as it was"
    assert (other.steps, other.rewirings) == (11, updater.rewirings)
    again.load_state_dict(net.state_dict())
    optimizer2.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for batch in data[11:]:
        step(net, optimizer, batch)
        step(again, optimizer2, batch)
    assert [r.step for r in other.history] == [r.step for r in updater.history]
    assert other.history == updater.history
    assert other.nnz == updater.nnz == round(0.3 * 2584)


def test_b19_unknown_choices_raise_what_they_say() -> None:
    """cstorch: the message of the unsupported algorithm is itself a NameError."""
    with pytest.raises(AttributeError, match="has no attribute 'rigll'"):
        regrow.rigll  # noqa: B018
    with pytest.raises(ValueError, match=r"rule must be one of .*erdos_renyi_kernel"):
        regrow.allocate({"a": (4, 4)}, 0.5, "erk")
