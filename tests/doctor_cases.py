"""A run with its step, what the doctor promises to leave alone, and set-ups its tests share."""

import random
from types import SimpleNamespace

import numpy as np
import torch
from tiny_cases import METHODS, batches, loss_of, tiny_net
from torch import nn

BATCHES = batches(12)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)


def build(make=sgd, method="rigl", **kwargs):
    """A model, its optimizer, updater and a plain step over an endless list of batches."""
    net = tiny_net()
    optimizer = make(net.parameters())
    kwargs = {"seed": 1} | kwargs
    updater = METHODS[method](net, optimizer, **kwargs)
    run = SimpleNamespace(net=net, optimizer=optimizer, updater=updater, at=0)

    def batch():
        run.at += 1
        return BATCHES[(run.at - 1) % len(BATCHES)]

    def step():
        optimizer.zero_grad()
        loss_of(net, batch()).backward()
        optimizer.step()

    run.batch, run.step = batch, step
    return run


def checks(diagnosis):
    return [finding.check for finding in diagnosis.findings]


def only(diagnosis, check):
    """The one finding there is, of this check."""
    assert checks(diagnosis) == [check], str(diagnosis)
    finding = diagnosis.findings[0]
    assert not diagnosis.is_healthy
    assert finding.fix in str(diagnosis).replace("\n       ", "\n")
    return finding


def bits(value):
    """Everything in a nested state, with the exact bits of tensors."""
    if isinstance(value, torch.Tensor):
        return (value.dtype, tuple(value.shape), value.detach().cpu().numpy().tobytes())
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, dict):
        return [(str(key), bits(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    return value


def world(run, *also):
    """All that the doctor promises to leave as it was."""
    optimizers = run.optimizer if isinstance(run.optimizer, list) else [run.optimizer]
    return bits(
        {
            "model": run.net.state_dict(keep_vars=True),
            "grads": [p.grad for p in run.net.parameters()],
            "training": [module.training for module in run.net.modules()],
            "optimizers": [(list(o.state.values()), list(o.param_groups)) for o in optimizers],
            "attributes": [sorted(vars(o)) for o in optimizers],
            "hooks": [
                (len(o._optimizer_step_pre_hooks), len(o._optimizer_step_post_hooks))
                for o in optimizers
            ],
            "updater": run.updater.state_dict(),
            "also": [thing.state_dict() for thing in also],
            "random": [torch.get_rng_state(), np.random.get_state(), random.getstate()],  # noqa: NPY002
        }
    )


def scaled(run, *, unscale, scale=2.0**16):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)

    def step():
        run.optimizer.zero_grad()
        scaler.scale(loss_of(run.net, run.batch())).backward()
        if unscale:
            scaler.unscale_(run.optimizer)
            nn.utils.clip_grad_norm_(run.net.parameters(), 1e-3)
        scaler.step(run.optimizer)
        scaler.update()

    return step, (scaler,)


def two_optimizers(net):
    matrices = [p for p in net.parameters() if p.dim() > 1]
    vectors = [p for p in net.parameters() if p.dim() == 1]
    return [sgd(matrices), adamw(vectors)]


def run_of_two(passed):
    """A run with two optimizers, of which the method is given those of these numbers."""
    net = tiny_net()
    optimizers = two_optimizers(net)
    given = [optimizers[i] for i in passed]
    updater = METHODS["rigl"](net, given, seed=1)
    run = SimpleNamespace(net=net, optimizer=optimizers, updater=updater)

    def step():
        net.zero_grad()
        loss_of(net, BATCHES[0]).backward()
        for optimizer in optimizers:
            optimizer.step()

    run.step = step
    return run
