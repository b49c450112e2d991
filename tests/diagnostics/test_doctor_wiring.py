"""Planted: models, optimizers and updaters that do not belong together."""

import copy

import pytest
import torch
from doctor_cases import BATCHES, adamw, bits, build, checks, only, run_of_two, sgd, world
from tiny_cases import loss_of
from torch import nn

import regrow


def test_an_optimizer_that_lacks_the_weights():
    run = build()
    lacking = sgd([p for name, p in run.net.named_parameters() if "fc" not in name])

    def step():
        run.net.zero_grad()
        loss_of(run.net, run.batch()).backward()
        lacking.step()

    diagnosis = regrow.doctor(run.net, lacking, run.updater, step)
    found = next(f for f in diagnosis.findings if f.check == "optimizer-lacks-weights")
    assert diagnosis.findings[0] is found
    assert "1 of 4 sparse weights ('fc.weight')" in found.message
    assert "torch.optim.SGD(model.parameters(), ...)" in found.fix


def test_a_parameter_that_fell_out_of_the_optimizer():
    run = build()
    run.optimizer.param_groups[0]["params"] = [
        p for p in run.optimizer.param_groups[0]["params"] if p is not run.net.mid.weight
    ]
    found = only(
        regrow.doctor(run.net, run.optimizer, run.updater, run.step), "optimizer-lacks-weights"
    )
    assert "'mid.weight'" in found.message


def test_an_optimizer_that_was_built_anew():
    run = build()
    run.optimizer = sgd(run.net.parameters())

    def step():
        run.optimizer.zero_grad()
        loss_of(run.net, run.batch()).backward()
        run.optimizer.step()

    before = world(run)
    found = only(regrow.doctor(run.net, run.optimizer, run.updater, step), "optimizer-not-passed")
    assert "hears none of this one's steps" in found.message
    assert world(run) == before


@pytest.mark.parametrize("sparse", [True, False])
def test_a_second_optimizer_that_was_not_passed(sparse):
    if sparse:
        run = build()
        second = adamw([run.net.fc.weight])
        step = run.step

        def both():
            step()
            second.step()

        passed = run.optimizer
        both(), both()  # the rewiring of step 4 then drops weights that the second has moved
    else:
        run = run_of_two([0])
        (passed, second), both = run.optimizer, run.step
    before = world(run), bits(list(second.state.values()))
    diagnosis = regrow.doctor(run.net, passed, run.updater, both)
    found = only(diagnosis, "optimizer-not-passed")
    assert "AdamW stepped 3 times in 3 calls" in found.message
    assert ("dead entries of 'fc.weight' away from zero" in found.message) == sparse
    assert "[sgd, adamw]" in found.fix
    assert any("AdamW" in note and "also=" in note for note in diagnosis.notes)
    assert (world(run), bits(list(second.state.values()))) == before


def test_a_second_optimizer_that_was_passed_in_also_is_found_all_the_same():
    run = run_of_two([0])
    passed, second = run.optimizer
    before = world(run)
    diagnosis = regrow.doctor(run.net, passed, run.updater, run.step, also=(second,))
    only(diagnosis, "optimizer-not-passed")
    assert len(diagnosis.notes) == 1
    assert world(run) == before


def test_a_second_optimizer_that_only_the_doctor_was_given():
    run = run_of_two([0])
    diagnosis = regrow.doctor(run.net, run.optimizer, run.updater, run.step)
    assert "before AdamW" in only(diagnosis, "optimizer-not-passed").message


class Hiding(nn.Module):
    """Keeps a part of itself where ``parameters()`` does not look."""

    def __init__(self, kind):
        super().__init__()
        hidden = [nn.Linear(16, 16), nn.Linear(16, 16)]
        self.first = nn.Linear(108, 16)
        self.blocks = hidden if kind is list else {"a": hidden[0], "b": hidden[1]}
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.first(x.flatten(1))
        blocks = self.blocks.values() if isinstance(self.blocks, dict) else self.blocks
        for block in blocks:
            x = block(x).relu()
        return self.head(x)


@pytest.mark.parametrize("kind", [list, dict])
@pytest.mark.parametrize("trained", [True, False])
def test_a_model_that_hides_layers(kind, trained):
    net = Hiding(kind)
    hidden = list(net.blocks.values()) if kind is dict else net.blocks
    more = [p for block in hidden for p in block.parameters()] if trained else []
    optimizer = sgd([*net.parameters(), *more])
    updater = regrow.rigl(net, optimizer, sparsity=0.5, n_steps=30, interval=4, seed=0)

    def step():
        optimizer.zero_grad()
        loss_of(net, BATCHES[0]).backward()
        optimizer.step()

    found = only(regrow.doctor(net, optimizer, updater, step), "hidden-parameters")
    assert "2 layers (Linear)" in found.message
    assert "misses 4 tensors" in found.message
    container = {list: "ModuleList", dict: "ModuleDict"}[kind]
    assert found.fix.startswith(f"self.blocks = torch.nn.{container}(self.blocks)")


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = [inner]

    def forward(self, x):
        return self.inner[0](x)


def test_a_wrapper_that_hides_the_whole_model():
    run = build()
    wrapper = Wrapper(run.net)

    def step():
        run.optimizer.zero_grad()
        loss_of(wrapper, run.batch()).backward()
        run.optimizer.step()

    before = world(run)
    found = only(regrow.doctor(wrapper, run.optimizer, run.updater, step), "hidden-parameters")
    assert "4 of 4" in found.message
    assert found.fix.startswith("self.inner = self.inner[0]")
    # (Buffers aside, of which there are none, the hidden model is put back through its optimizer.)
    assert world(run) == before


def test_a_wrapper_that_hides_nothing_is_healthy():
    run = build()
    diagnosis = regrow.doctor(nn.Sequential(run.net), run.optimizer, run.updater, run.step)
    assert diagnosis.is_healthy, str(diagnosis)


def test_a_frozen_teacher_may_be_hidden():
    run = build()
    teacher = nn.Linear(4, 4).requires_grad_(False)
    run.net.teacher = [teacher]
    forward = run.net.forward
    run.net.forward = lambda x: teacher(forward(x))
    diagnosis = regrow.doctor(run.net, run.optimizer, run.updater, run.step)
    assert diagnosis.is_healthy, str(diagnosis)


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.mid = nn.Linear(8, 8)
        self.other = nn.Linear(8, 8)
        self.head = nn.Linear(8, 12)

    def forward(self, x):
        return self.head(self.other(self.mid(self.embed(x)).relu()))


def tie_embedding_to_head(net):
    net.embed.weight = net.head.weight


def tie_head_to_embedding(net):
    net.head.weight = net.embed.weight


def tie_two_linear(net):
    net.other.weight = net.mid.weight


def language_step(net, optimizer):
    tokens = torch.arange(12)

    def step():
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(tokens), tokens).backward()
        optimizer.step()

    return step


@pytest.mark.parametrize("tie", [tie_embedding_to_head, tie_head_to_embedding, tie_two_linear])
def test_weights_tied_after_the_call(tie):
    net = Language()
    optimizer = sgd(net.parameters())
    updater = regrow.rigl(net, optimizer, sparsity=0.5, n_steps=30, interval=4, seed=0)
    tie(net)
    before = bits(net.state_dict())
    diagnosis = regrow.doctor(net, optimizer, updater, language_step(net, optimizer))
    assert checks(diagnosis)[0] == "tied-after-call", str(diagnosis)
    assert set(checks(diagnosis)[1:]) <= {"raised"}
    found = diagnosis.findings[0]
    first, second = ("mid", "other") if tie is tie_two_linear else ("embed", "head")
    assert f"'{first}.weight', '{second}.weight'" in found.message
    assert f"model.{second}.weight = model.{first}.weight  # before" in found.fix
    assert bits(net.state_dict()) == before


@pytest.mark.parametrize("tie", [tie_embedding_to_head, tie_two_linear])
@pytest.mark.parametrize("select", ["*.weight", regrow.default_weights])
def test_weights_tied_before_the_call_are_healthy(tie, select):
    net = Language()
    tie(net)
    optimizer = sgd(net.parameters())
    updater = regrow.rigl(
        net, optimizer, sparsity=0.5, n_steps=30, interval=4, seed=0, select=select
    )
    diagnosis = regrow.doctor(net, optimizer, updater, language_step(net, optimizer))
    assert diagnosis.is_healthy, str(diagnosis)


@pytest.mark.parametrize("passed", ["original", "copy", "copy-and-old-optimizer"])
def test_a_model_copied_without_its_updater(passed):
    run = build()
    clone = copy.deepcopy(run.net)
    its_own = sgd(clone.parameters())

    def step():
        its_own.zero_grad()
        loss_of(clone, run.batch()).backward()
        its_own.step()

    model = run.net if passed == "original" else clone
    optimizer = its_own if passed == "copy" else run.optimizer
    before = world(run), bits(clone.state_dict()), bits(list(its_own.state.values()))
    diagnosis = regrow.doctor(model, optimizer, run.updater, step)
    assert checks(diagnosis)[0] == "copied-model", str(diagnosis)
    assert "copy.deepcopy((model, optimizer, updater))" in diagnosis.findings[0].fix
    assert "4 sparse weights" in diagnosis.findings[0].message
    assert (world(run), bits(clone.state_dict()), bits(list(its_own.state.values()))) == before


def test_a_model_copied_with_its_updater_is_healthy():
    run = build()
    net, optimizer, updater = copy.deepcopy((run.net, run.optimizer, run.updater))

    def step():
        optimizer.zero_grad()
        loss_of(net, run.batch()).backward()
        optimizer.step()

    assert regrow.doctor(net, optimizer, updater, step).is_healthy
