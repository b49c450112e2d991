import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regrow.study import (
    Recipe,
    RewiringSchedule,
    accuracy,
    attach_method,
    crop_and_flip,
    load_state,
    seeded,
    train_classifier,
)
from regrow.topology import derived_generator

RECIPE = Recipe(epochs=6, batch_size=16, lr=0.1, padding=1, flip=True)
SCHEDULE = RewiringSchedule(rewirings=8, interval=3, stop_at=0.75)
RANDOM = ["set", "mest-random", "granet-gradient"]


def start(make_net, method, *, seed=3, recipe=RECIPE):
    model = make_net()
    optimizer = recipe.optimizer(model)
    updater = attach_method(
        method, model, optimizer, sparsity=0.4, n_steps=36, schedule=SCHEDULE, seed=seed
    )
    return {"model": model, "optimizer": optimizer, "updater": updater, "seed": seed}


def weights(run):
    return {name: value.clone() for name, value in run["model"].state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_is_the_plain_loop(make_net, blobs):
    run = start(make_net, "dense")
    training = train_classifier(images=blobs, recipe=RECIPE, **run)
    model = make_net()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    rates = [0.1] * 18 + [0.1 * 0.1] * 9 + [0.1 * 0.01] * 9
    device, step = torch.device("cpu"), 0
    for epoch in range(6):
        order = torch.randperm(96, generator=derived_generator(3, "order", epoch))
        losses, correct = [], 0
        with seeded(3, "dropout", epoch, device=device):
            for batch in range(6):
                chosen = order[16 * batch : 16 * batch + 16]
                pixels = crop_and_flip(
                    blobs.pixels[chosen],
                    padding=1,
                    flip=True,
                    generator=derived_generator(3, "augmentation", epoch, batch),
                )
                optimizer.param_groups[0]["lr"] = rates[step]
                optimizer.zero_grad()
                logits = model(blobs.normalised(pixels))
                loss = F.cross_entropy(logits, blobs.labels[chosen])
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                correct += int((logits.argmax(1) == blobs.labels[chosen]).sum())
                step += 1
        line = training.history[epoch]
        assert line["epoch"] == epoch + 1
        assert line["loss"] == pytest.approx(sum(losses) / 6)
        assert line["accuracy"] == correct / 96
        assert line["lr"] == pytest.approx(rates[step - 1])
    assert equal(weights(run), dict(model.state_dict()))
    assert (training.epochs, training.weight_steps) == (6, 36)
    assert training.seconds > 0
    assert training.history[-1]["loss"] < training.history[0]["loss"]


@pytest.mark.parametrize("method", ["dense", "static", *RANDOM, "rigl", "gradual"])
def test_a_killed_training_goes_on_bit_for_bit(make_net, blobs, tmp_path, method):
    whole = start(make_net, method)
    expected = train_classifier(images=blobs, recipe=RECIPE, **whole)
    path = tmp_path / "checkpoint.safetensors"
    sessions = 0
    for steps_before_kill in (7, 13, 100):
        torch.rand(sessions + 5)  # the global generator must not matter
        run = start(make_net, method)
        left = steps_before_kill

        def on_step():
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

        try:
            training = train_classifier(
                images=blobs, recipe=RECIPE, checkpoint=path, on_step=on_step, **run
            )
        except KeyboardInterrupt:
            sessions += 1
    assert sessions == 2
    assert training.history == expected.history
    assert training.weight_steps == 36
    assert equal(weights(run), weights(whole))
    for name, value in whole["optimizer"].state_dict()["state"].items():
        found = run["optimizer"].state_dict()["state"][name]
        assert torch.equal(found["momentum_buffer"], value["momentum_buffer"])
    if run["updater"] is not None:
        assert run["updater"].rewirings == whole["updater"].rewirings
        assert run["updater"].exploration == whole["updater"].exploration
        for name, topology in whole["updater"].topologies.items():
            assert torch.equal(run["updater"].topologies[name].mask, topology.mask)
        example = torch.zeros(4, 3, 8, 8)
        assert run["updater"].training_flops(example) == whole["updater"].training_flops(example)


def test_a_finished_training_is_read_and_not_done_again(make_net, blobs, tmp_path):
    path = tmp_path / "c.safetensors"
    first = start(make_net, "set")
    train_classifier(images=blobs, recipe=RECIPE, checkpoint=path, **first)
    again = start(make_net, "set")
    steps = []
    train_classifier(
        images=blobs, recipe=RECIPE, checkpoint=path, on_step=lambda: steps.append(1), **again
    )
    assert not steps
    assert equal(weights(again), weights(first))


def test_the_global_generator_is_neither_read_nor_moved(make_net, blobs):
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        run = start(make_net, "set")
        train_classifier(images=blobs, recipe=RECIPE, **run)
        assert torch.equal(torch.get_rng_state(), before)
        results.append(weights(run))
    assert equal(*results)


def test_another_seed_gives_another_training(make_net, blobs):
    runs = [start(make_net, "dense", seed=seed) for seed in (0, 1)]
    for run in runs:
        train_classifier(images=blobs, recipe=RECIPE, **run)
    assert not equal(weights(runs[0]), weights(runs[1]))


def test_a_checkpoint_of_another_training_is_refused(make_net, blobs, tmp_path):
    path = tmp_path / "c.safetensors"
    train_classifier(images=blobs, recipe=RECIPE, checkpoint=path, **start(make_net, "set"))
    for wrong in (
        start(make_net, "set", seed=4),
        start(make_net, "dense"),
        {**start(make_net, "dense"), "model": nn.Linear(2, 2)},
    ):
        with pytest.raises(ValueError, match=r"c\.safetensors is of another training"):
            train_classifier(images=blobs, recipe=RECIPE, checkpoint=path, **wrong)
    longer = Recipe(epochs=7, batch_size=16, lr=0.1)
    with pytest.raises(ValueError, match="another training"):
        train_classifier(
            images=blobs, recipe=longer, checkpoint=path, **start(make_net, "set", recipe=longer)
        )
    path.write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="no whole safetensors file"):
        train_classifier(images=blobs, recipe=RECIPE, checkpoint=path, **start(make_net, "set"))


def test_a_training_that_diverges_says_so_and_keeps_no_such_checkpoint(make_net, blobs, tmp_path):
    recipe = Recipe(epochs=3, batch_size=16, lr=1e30)
    path = tmp_path / "c.safetensors"
    run = start(make_net, "dense", recipe=recipe)
    with pytest.raises(FloatingPointError, match="learning rate below"):
        train_classifier(images=blobs, recipe=recipe, checkpoint=path, **run)
    if path.exists():
        assert all(math.isfinite(line["loss"]) for line in load_state(path)["training"]["history"])


@pytest.mark.parametrize("method", ["dense", "rigl"])
def test_mixed_precision_on_the_cpu_learns_and_resumes(make_net, blobs, tmp_path, method):
    whole = start(make_net, method)
    expected = train_classifier(images=blobs, recipe=RECIPE, amp=True, **whole)
    plain = start(make_net, method)
    train_classifier(images=blobs, recipe=RECIPE, **plain)
    assert not equal(weights(plain), weights(whole))
    assert accuracy(whole["model"], blobs, amp=True) > 0.9
    left = iter(range(20))
    options = {"recipe": RECIPE, "amp": True, "checkpoint": tmp_path / "c"}
    with pytest.raises(StopIteration):
        train_classifier(
            images=blobs, on_step=lambda: next(left), **options, **start(make_net, method)
        )
    run = start(make_net, method)
    training = train_classifier(images=blobs, **options, **run)
    assert training.history == expected.history
    assert equal(weights(run), weights(whole))


@pytest.mark.gpu
@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("method", ["dense", "set", "rigl"])
def test_on_a_gpu_every_weight_step_is_made_and_resuming_is_bit_for_bit(
    make_net, blobs, tmp_path, method, amp
):
    def fresh():
        run = start(lambda: make_net().cuda(), method)
        return {**run, "device": "cuda", "amp": amp}

    whole, path = fresh(), tmp_path / "c"
    expected = train_classifier(images=blobs, recipe=RECIPE, **whole)
    assert expected.weight_steps == 36
    if whole["updater"] is not None:
        assert whole["updater"].weight_steps == 36
        assert whole["updater"].rewirings == 8
    left = iter(range(20))
    with pytest.raises(StopIteration):
        train_classifier(
            images=blobs, recipe=RECIPE, checkpoint=path, on_step=lambda: next(left), **fresh()
        )
    run = fresh()
    training = train_classifier(images=blobs.to("cuda"), recipe=RECIPE, checkpoint=path, **run)
    assert training.history == expected.history
    assert equal(weights(run), weights(whole))
    assert accuracy(run["model"], blobs, device="cuda", amp=amp) > 0.9


def test_a_batch_that_overflows_is_tried_again(make_net, blobs, monkeypatch):
    # GradScaler on the CPU behaves as on a GPU; the loop enables it on GPUs only.
    run = start(make_net, "rigl")
    # Overflows at scales near the largest float32, and changes nothing below.
    run["model"][0].weight.register_hook(lambda grad: grad * 2.0**20 * 2.0**-20)
    scalers = []

    class Scaler(torch.amp.GradScaler):
        def __init__(self, device, *, enabled):
            super().__init__("cpu", init_scale=2.0**126, growth_interval=7, enabled=True)
            scalers.append(self)

    monkeypatch.setattr(torch.amp, "GradScaler", Scaler)
    steps = []
    training = train_classifier(images=blobs, recipe=RECIPE, on_step=lambda: steps.append(1), **run)
    assert training.weight_steps == len(steps) == 36
    assert run["updater"].weight_steps == 36
    assert run["updater"].rewirings == 8
    assert scalers[0].get_scale() < 2.0**120
    assert all(math.isfinite(line["loss"]) for line in training.history)


def test_gradients_that_overflow_at_every_scale_are_an_error(make_net, blobs, monkeypatch):
    run = start(make_net, "dense")

    class Scaler(torch.amp.GradScaler):
        def __init__(self, device, *, enabled):
            super().__init__("cpu", enabled=True)

    monkeypatch.setattr(torch.amp, "GradScaler", Scaler)
    run["model"][0].weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(FloatingPointError, match="train without amp"):
        train_classifier(images=blobs, recipe=RECIPE, **run)


def test_accuracy_does_not_depend_on_the_batch(make_net, blobs):
    run = start(make_net, "dense")
    train_classifier(images=blobs, recipe=RECIPE, **run)
    model = run["model"]
    before = copy.deepcopy(model.state_dict())
    shares = {accuracy(model, blobs, batch_size=size) for size in (1, 7, 96, 1000)}
    assert shares == {accuracy(model, blobs)}
    model.eval()
    predicted = model(blobs.normalised(blobs.pixels)).argmax(1)
    assert shares == {float((predicted == blobs.labels).double().mean())}
    darkened = torch.zeros_like(blobs.pixels)
    assert accuracy(model, blobs, pixels=darkened) == pytest.approx(1 / 3)
    assert equal(before, model.state_dict())
    with pytest.raises(ValueError, match="95 images for 96 labels"):
        accuracy(model, blobs, pixels=blobs.pixels[:95])
