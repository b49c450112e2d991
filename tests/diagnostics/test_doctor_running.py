"""Planted: gradients, scales, counts and weights that a step gets wrong; and what it raises."""

import importlib

import pytest
import torch
from doctor_cases import adamw, build, checks, only, run_of_two, scaled, world
from tiny_cases import loss_of
from torch import nn

import regrow


def hooks_of(weight):
    return dict(weight._backward_hooks or {}), dict(weight._post_accumulate_grad_hooks)


def own_mask(run):
    mask = run.updater.topologies["fc.weight"].mask.clone()
    run.net.fc.weight.register_hook(lambda grad: grad * mask)


def elementwise_clamp(run):
    run.net.fc.weight.register_hook(lambda grad: grad.clamp(-1e-4, 1e-4))


def in_place_sign(run):
    def sign_(parameter):
        parameter.grad.sign_()

    run.net.fc.weight.register_post_accumulate_grad_hook(sign_)


@pytest.mark.parametrize("plant", [own_mask, elementwise_clamp, in_place_sign])
def test_a_hook_that_rewrites_gradients(plant):
    run = build()
    plant(run)
    hooks = hooks_of(run.net.fc.weight)
    diagnosis = regrow.doctor(run.net, run.optimizer, run.updater, run.step)
    found = only(diagnosis, "rewritten-gradients")
    assert "'fc.weight'" in found.message
    assert f"{plant.__name__}." in found.message
    assert "test_doctor_running.py:" in found.message
    assert "handle.remove()" in found.fix
    assert hooks_of(run.net.fc.weight) == hooks


@pytest.mark.parametrize("closure", [True, False])
def test_gradients_of_dead_weights_that_are_written_behind_backward(closure):
    run = build()

    def backward():
        run.optimizer.zero_grad()
        loss = loss_of(run.net, run.batch())
        loss.backward()
        run.net.fc.weight.grad.add_(1e-3)
        return loss

    def step():
        if closure:
            run.optimizer.step(backward)
        else:
            backward()
            run.optimizer.step()

    found = only(regrow.doctor(run.net, run.optimizer, run.updater, step), "rewritten-gradients")
    topology = run.updater.topologies["fc.weight"]
    n_dead = topology.n_elements - topology.nnz
    assert f"in call 1, {n_dead} gradients of weights that do not exist" in found.message


def divide_by_hand(run, scaler):
    for parameter in run.net.parameters():
        parameter.grad.div_(scaler.get_scale())


def divide_and_clip(run, scaler):
    divide_by_hand(run, scaler)
    nn.utils.clip_grad_norm_(run.net.parameters(), 1e-2)


def divide_after_unscale(run, scaler):
    scaler.unscale_(run.optimizer)
    divide_by_hand(run, scaler)


def clip_while_scaled(run, scaler):
    nn.utils.clip_grad_norm_(run.net.parameters(), 1.0)


def unscale_again(run, scaler):
    scaler.unscale_(run.optimizer)
    scaler.unscale_(run.optimizer)


@pytest.mark.parametrize(
    "plant",
    [divide_by_hand, divide_and_clip, divide_after_unscale, clip_while_scaled, unscale_again],
)
@pytest.mark.parametrize("fused", [True, False])
def test_gradients_unscaled_twice(plant, fused):
    run = build(lambda p: torch.optim.SGD(p, lr=0.1, fused=fused))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)

    def step():
        run.optimizer.zero_grad()
        scaler.scale(loss_of(run.net, run.batch())).backward()
        plant(run, scaler)
        scaler.step(run.optimizer)
        scaler.update()

    before = world(run, scaler)
    attributes = sorted(vars(scaler))
    found = only(
        regrow.doctor(run.net, run.optimizer, run.updater, step, also=[scaler]), "unscaled-twice"
    )
    assert "scaler.unscale_(optimizer)  # once" in found.fix
    if plant is not unscale_again:
        assert "scale 16384" in found.message
    assert world(run, scaler) == before
    assert sorted(vars(scaler)) == attributes
    healthy, _ = scaled(run, unscale=False)
    healthy()  # (the optimizer is not left in the middle of a scaled step)
    scaler.scale(loss_of(run.net, run.batch())).backward()
    scaler.step(run.optimizer)


def test_gradients_never_unscaled():
    run = build()
    scaler = torch.amp.GradScaler("cpu")

    def step():
        run.optimizer.zero_grad()
        scaler.scale(loss_of(run.net, run.batch())).backward()
        run.optimizer.step()

    diagnosis = regrow.doctor(run.net, run.optimizer, run.updater, step, also=[scaler])
    assert "scaler.step(optimizer)" in only(diagnosis, "never-unscaled").fix


def test_gradients_never_scaled():
    run = build()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(1))

    def step():
        run.optimizer.zero_grad()
        loss_of(run.net, run.batch()).backward()
        scaler.step(run.optimizer)
        scaler.update()

    diagnosis = regrow.doctor(run.net, run.optimizer, run.updater, step, also=[scaler])
    assert "scaler.scale(loss)" in only(diagnosis, "never-scaled").fix


@pytest.mark.parametrize("fused", [True, False])
def test_a_scaler_that_skips_every_step_is_noted(fused):
    run = build(lambda p: torch.optim.SGD(p, lr=0.1, fused=fused))
    scaler = torch.amp.GradScaler("cpu")

    def step():
        run.optimizer.zero_grad()
        scaler.scale(loss_of(run.net, run.batch()) * float("inf")).backward()
        scaler.step(run.optimizer)
        scaler.update()

    before = world(run, scaler)
    diagnosis = regrow.doctor(run.net, run.optimizer, run.updater, step, also=[scaler])
    assert diagnosis.is_healthy, str(diagnosis)
    assert any("skipped" in note for note in diagnosis.notes)
    assert world(run, scaler) == before


def test_a_rewiring_that_waits_for_finite_gradients_leaves_them_dense():
    run = build()
    infinite = [False]

    def step():
        run.optimizer.zero_grad()
        loss_of(run.net, run.batch()).backward()
        if run.updater.steps == 3:
            infinite[0] = True
            run.net.fc.weight.grad[0, 0] = float("inf")
        run.optimizer.step()

    run.step(), run.step()
    run.optimizer.param_groups[0]["lr"] = 0.0
    diagnosis = regrow.doctor(run.net, run.optimizer, run.updater, step)
    assert infinite[0]
    assert diagnosis.is_healthy, str(diagnosis)


def test_weights_written_behind_the_step():
    run = build()

    def step():
        run.step()
        with torch.no_grad():
            run.net.fc.weight.add_(1e-3)

    found = only(regrow.doctor(run.net, run.optimizer, run.updater, step), "dead-weights")
    assert "after call 1" in found.message
    assert "'fc.weight'" in found.message


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_cleared_in_front_of_the_step(set_to_none):
    run = build()

    def step():
        loss_of(run.net, run.batch()).backward()
        run.optimizer.zero_grad(set_to_none=set_to_none)
        run.optimizer.step()

    found = only(regrow.doctor(run.net, run.optimizer, run.updater, step), "no-gradient")
    assert "4 of 4 sparse weights got a gradient" in found.message
    assert "behind the step" in found.fix


def test_several_steps_a_call():
    run = build()

    def step():
        run.step()
        run.step()

    found = only(regrow.doctor(run.net, run.optimizer, run.updater, step), "several-steps")
    assert "n_steps=2 * n_calls" in found.fix


def test_one_call_that_steps_twice_is_not_several():
    run = build()

    def step():
        run.step()
        if run.at % 3 == 2:
            run.step()

    assert regrow.doctor(run.net, run.optimizer, run.updater, step).is_healthy


def test_an_updater_that_was_detached():
    run = build()
    run.updater.detach()
    diagnosis = regrow.doctor(run.net, run.optimizer, run.updater, run.step)
    assert checks(diagnosis)[0] == "steps-not-counted"
    assert "detached" in diagnosis.findings[0].message


@pytest.mark.parametrize("body", ["nothing", "backward"])
def test_a_step_that_does_not_step(body):
    run = build()

    def step():
        if body == "backward":
            loss_of(run.net, run.batch()).backward()

    expected = "no-step" if body == "backward" else "no-gradient"
    only(regrow.doctor(run.net, run.optimizer, run.updater, step), expected)


def test_optimizers_in_another_order_than_passed():
    run = run_of_two([1, 0])
    diagnosis = regrow.doctor(run.net, run.optimizer, run.updater, run.step)
    found = only(diagnosis, "raised")
    assert "SparsityError" in found.message
    assert "order" in found.message


@pytest.mark.parametrize("error", [ValueError, RuntimeError, regrow.SparsityError])
def test_what_step_raises_is_a_finding(error):
    run = build()
    calls = []

    def step():
        calls.append(0)
        run.step()
        if len(calls) == 2:
            raise error("the third of two")

    before = world(run)
    diagnosis = regrow.doctor(run.net, run.optimizer, run.updater, step)
    found = only(diagnosis, "raised")
    assert f"call 2 of step raised {error.__name__}: the third of two" in found.message
    assert found.fix.endswith('raise error("the third of two")')
    assert "test_doctor_running.py:" in found.fix
    assert diagnosis.n_calls == 1
    assert world(run) == before


@pytest.mark.parametrize("error", [StopIteration, KeyboardInterrupt, KeyError])
def test_anything_else_goes_on_with_all_put_back(error):
    run = build(adamw)

    def step():
        run.step()
        raise error

    before = world(run)
    with pytest.raises(error):
        regrow.doctor(run.net, run.optimizer, run.updater, step)
    assert world(run) == before
    optimizer_module = importlib.import_module("torch.optim.optimizer")
    assert not optimizer_module._global_optimizer_pre_hooks
    assert not optimizer_module._global_optimizer_post_hooks
    assert not nn.modules.module._global_forward_pre_hooks
    assert not nn.modules.module._global_forward_hooks
    assert [len(p._post_accumulate_grad_hooks or {}) for p in run.net.parameters()].count(1) == 4
