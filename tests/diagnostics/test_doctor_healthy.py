"""Healthy set-ups are not blamed, and nothing is left behind."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from doctor_cases import BATCHES, adamw, bits, build, run_of_two, scaled, sgd, world
from tiny_cases import METHODS, loss_of, tiny_net
from torch import nn

import regrow


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("make", [sgd, adamw])
def test_a_plain_loop_is_healthy(make, method):
    run = build(make, method)
    for _ in range(2):  # so that the rewiring of step 4 falls into the three calls
        run.step()
    before = world(run)
    diagnosis = regrow.doctor(run.net, run.optimizer, run.updater, run.step)
    assert diagnosis.is_healthy, str(diagnosis)
    assert diagnosis.n_calls == 3
    assert world(run) == before


def with_closure(run):
    def step():
        batch = run.batch()

        def closure():
            run.optimizer.zero_grad()
            loss = loss_of(run.net, batch)
            loss.backward()
            return loss

        run.optimizer.step(closure)

    return step, ()


def with_keyword_closure(run):
    by_position, also = with_closure(run)

    def step():
        original = run.optimizer.step
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run.optimizer, "step", lambda closure: original(closure=closure))
            by_position()

    return step, also


def with_accumulation(run):
    def step():
        run.optimizer.zero_grad()
        for _ in range(3):
            (loss_of(run.net, run.batch()) / 3).backward()
        nn.utils.clip_grad_norm_(run.net.parameters(), 0.01)
        run.optimizer.step()

    return step, ()


def with_micro_batches(run):
    """Every second call ends with a step."""

    def step():
        loss_of(run.net, run.batch()).backward()
        if run.at % 2 == 0:
            run.optimizer.step()
            run.optimizer.zero_grad()

    return step, ()


def with_zero_grad_in_place(run):
    def step():
        run.optimizer.zero_grad(set_to_none=False)
        loss_of(run.net, run.batch()).backward()
        run.optimizer.step()

    return step, ()


def with_scheduler(run):
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(run.optimizer, 30)

    def step():
        run.step()
        scheduler.step()

    return step, (scheduler,)


def with_average(run):
    average = torch.optim.swa_utils.AveragedModel(run.net)
    run.updater.follow(average)

    def step():
        run.step()
        average.update_parameters(run.net)

    return step, (average,)


def with_clipping_hooks(run):
    """Clips the norm of each gradient: one factor for all entries."""
    for parameter in run.net.parameters():
        parameter.register_hook(lambda grad: grad * (0.01 / grad.norm()).clamp(max=1))
    return run.step, ()


def with_another_model(run):
    """A discriminator with an optimizer of its own, and no part in the sparse model."""
    other = nn.Linear(4, 1)
    its_own = torch.optim.SGD(other.parameters(), lr=0.1)

    def step():
        run.step()
        its_own.zero_grad()
        other(torch.randn(3, 4)).sum().backward()
        its_own.step()

    return step, (other, its_own)


def with_evaluation(run):
    """Leaves the model in eval mode, and draws from every global generator."""

    def step():
        run.net.train()
        run.step()
        run.net.eval()
        torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002

    return step, ()


HEALTHY = {
    "closure": with_closure,
    "closure=": with_keyword_closure,
    "accumulation": with_accumulation,
    "micro-batches": with_micro_batches,
    "scaler": lambda run: scaled(run, unscale=False),
    "scaler-clip": lambda run: scaled(run, unscale=True),
    "zero-grad-in-place": with_zero_grad_in_place,
    "scaler-of-1": lambda run: scaled(run, unscale=False, scale=1.0),
    "scaler-of-1-clip": lambda run: scaled(run, unscale=True, scale=1.0),
    "scheduler": with_scheduler,
    "average": with_average,
    "clipping-hooks": with_clipping_hooks,
    "another-model": with_another_model,
    "evaluation": with_evaluation,
}


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("name", list(HEALTHY))
def test_healthy_loops(name, make):
    run = build(make)
    step, also = HEALTHY[name](run)
    before = world(run, *also)
    diagnosis = regrow.doctor(run.net, run.optimizer, run.updater, step, also=also)
    assert diagnosis.is_healthy, str(diagnosis)
    assert world(run, *also) == before


def test_a_fused_optimizer_under_a_scaler_is_healthy():
    run = build(lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True))
    step, also = scaled(run, unscale=False)
    before = world(run, *also)
    diagnosis = regrow.doctor(run.net, run.optimizer, run.updater, step, also=also)
    assert diagnosis.is_healthy, str(diagnosis)
    assert world(run, *also) == before


def test_two_layers_that_happen_to_have_one_topology_are_healthy():
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    optimizer = sgd(net.parameters())
    updater = regrow.static(net, optimizer, sparsity=0.5)
    state = updater.state_dict()
    state["layers"]["2.weight"] = state["layers"]["0.weight"]
    updater.load_state_dict(state)
    masks = [topology.mask for topology in updater.topologies.values()]
    assert torch.equal(*masks)

    def step():
        optimizer.zero_grad()
        net(torch.ones(2, 6)).square().sum().backward()
        optimizer.step()

    assert regrow.doctor(net, optimizer, updater, step).is_healthy


class Around(torch.optim.Optimizer):
    """An optimizer that steps by another one inside it, as Lookahead and SAM do."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__(inner.param_groups, inner.defaults)

    @torch.no_grad()
    def step(self, closure=None):
        self.inner.step()
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["count"] = torch.tensor(1.0)


def test_an_optimizer_around_another_is_healthy():
    run = build(lambda parameters: Around(sgd(parameters)))
    before = world(run), bits(list(run.optimizer.inner.state.values()))
    diagnosis = regrow.doctor(run.net, run.optimizer, run.updater, run.step)
    assert diagnosis.is_healthy, str(diagnosis)
    assert (world(run), bits(list(run.optimizer.inner.state.values()))) == before


def test_two_optimizers_are_healthy():
    run = run_of_two([0, 1])
    before = world(run)
    diagnosis = regrow.doctor(run.net, run.optimizer, run.updater, run.step)
    assert diagnosis.is_healthy, str(diagnosis)
    assert world(run) == before
    # (In the order of another list they are the same two.)
    assert regrow.doctor(run.net, run.optimizer[::-1], run.updater, run.step).is_healthy


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("n_before", [0, 3])
def test_training_goes_on_as_if_nothing_had_been(make, n_before):
    """With dropout, and with gradients that stand half accumulated when the doctor comes."""

    def train(*, examined):
        net = tiny_net()
        net.mid = nn.Sequential(net.mid, nn.Dropout(0.2), nn.BatchNorm1d(16))
        optimizer = make(net.parameters())
        updater = METHODS["rigl"](net, optimizer, seed=1)
        torch.manual_seed(5)

        def step(batch):
            loss = loss_of(net, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

        losses = [step(batch) for batch in BATCHES[:n_before]]
        loss_of(net, BATCHES[-1]).backward()
        if examined:
            identities = [id(p.grad) for p in net.parameters()]
            assert regrow.doctor(net, optimizer, updater, lambda: step(BATCHES[0])).is_healthy
            assert [id(p.grad) for p in net.parameters()] == identities
            assert bool(optimizer.state) == (n_before > 0)
        losses += [step(batch) for batch in BATCHES[n_before:]]
        assert updater.rewirings == 3
        return bits([losses, net.state_dict(), optimizer.state_dict(), updater.state_dict()])

    assert train(examined=True) == train(examined=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_is_left_behind_on_a_gpu():
    net = nn.Sequential(nn.Linear(32, 64), nn.Dropout(0.5), nn.Linear(64, 64)).cuda()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, fused=True)
    updater = regrow.rigl(net, optimizer, sparsity=0.5, n_steps=30, interval=2, seed=0)
    scaler = torch.amp.GradScaler("cuda")
    x = torch.randn(16, 32, device="cuda")

    def step():
        optimizer.zero_grad()
        scaler.scale(net(x).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()

    run = SimpleNamespace(net=net, optimizer=optimizer, updater=updater)
    for _ in range(2):
        before = world(run, scaler), bits(torch.cuda.get_rng_state_all())
        diagnosis = regrow.doctor(net, optimizer, updater, step, also=(scaler,))
        assert diagnosis.is_healthy, str(diagnosis)
        assert (world(run, scaler), bits(torch.cuda.get_rng_state_all())) == before
        step()
