"""SetTrainer against plain dense PyTorch with masks, and its promises."""

import copy
import io
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from regrow import SparsityError
from regrow.nn import SparseLinear
from regrow.systems.truly_sparse import (
    ImportancePruning,
    Recipe,
    Samples,
    SetTrainer,
    sparse_mlp,
    wasap_sgd,
    wassp_sgd,
)
from regrow.systems.truly_sparse._trainer import order_of

SIZES = (20, 30, 30, 3)


def network(**more):
    return sparse_mlp(SIZES, **({"epsilon": 3, "dtype": torch.float64, "seed": 4} | more))


def trained(samples, epochs, recipe=None, *, seed=1, **more):
    net = network(**more)
    trainer = SetTrainer(net, recipe, seed=seed)
    trainer.fit(samples, epochs=epochs)
    return trainer


def state_of(trainer):
    return trainer.model.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def dense_reference(net, samples, recipe, *, epochs, seed):
    """The same training by hand, with dense weights, masks and no rewiring: weights and losses.

    L2 is part of the gradient, so that a step shrinks a weight by lr * weight_decay.
    """
    layers = [m for m in net if isinstance(m, SparseLinear)]
    masks = [layer.topology.mask.double() for layer in layers]
    weights = [layer.dense_weight().requires_grad_() for layer in layers]
    biases = [layer.bias.detach().clone().requires_grad_() for layer in layers]
    momenta = [torch.zeros_like(w) for w in [*weights, *biases]]
    losses = []
    for epoch in range(1, epochs + 1):
        total = 0.0
        for indices in order_of(samples, seed, epoch).split(recipe.batch_size):
            h = samples.x[indices]
            for i, (w, b) in enumerate(zip(weights, biases, strict=True), start=1):
                h = h @ (w * masks[i - 1]).T + b
                if i < len(layers):
                    h = torch.where(h > 0, h, (-0.6 if i % 2 else 0.6) * h)
            loss = F.cross_entropy(h, samples.y[indices])
            grads = torch.autograd.grad(loss, [*weights, *biases])
            total += loss.item() * len(indices)
            with torch.no_grad():
                for k, (p, g) in enumerate(zip([*weights, *biases], grads, strict=True)):
                    if k < len(weights):
                        g = g * masks[k] + recipe.weight_decay * p
                    momenta[k].mul_(recipe.momentum).add_(g)
                    p.sub_(recipe.lr * momenta[k])
        losses.append(total / len(samples))
    return weights, biases, losses


def test_training_is_that_of_a_masked_dense_network(problem):
    recipe = Recipe(lr=0.05, weight_decay=0.02, batch_size=16, drop_fraction=0.0)
    net = network()
    expected = dense_reference(copy.deepcopy(net), problem, recipe, epochs=3, seed=9)
    trainer = SetTrainer(net, recipe, seed=9)
    records = trainer.fit(problem, epochs=3)
    layers = [m for m in net if isinstance(m, SparseLinear)]
    for layer, weight, bias in zip(layers, *expected[:2], strict=True):
        torch.testing.assert_close(layer.dense_weight(), weight.detach(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(layer.bias.detach(), bias.detach(), rtol=1e-9, atol=1e-12)
    assert [r.loss for r in records] == pytest.approx(expected[2], rel=1e-10)


def test_it_learns(problem):
    records = trained(problem, 30, Recipe(lr=0.05, batch_size=16)).history
    assert records[-1].loss < 0.3 < records[0].loss


def test_rewiring_happens_between_epochs(problem):
    trainer = SetTrainer(network(), Recipe(batch_size=32), seed=1)
    updater_nnz = None
    for epoch in range(1, 5):
        before = None if epoch == 1 else dict(trainer.updater.topologies)
        output = trainer.model[4].topology
        trainer.run_epoch(problem)
        assert trainer.updater.rewirings == epoch - 1  # none behind the last
        assert trainer.model[4].topology == output
        updater_nnz = updater_nnz or trainer.updater.nnz
        assert trainer.updater.nnz == updater_nnz
        if before is not None:
            assert trainer.updater.history[-1].step == 5 * (epoch - 1) + 1
            for name, topology in trainer.updater.topologies.items():
                kept = torch.isin(before[name].units, topology.units).double().mean().item()
                # Three in ten are dropped; a few come back by chance.
                assert 0.7 - 0.01 <= kept < 0.8


def test_the_same_seed_trains_the_same_network(problem):
    recipe = Recipe(batch_size=32, importance=ImportancePruning(20, start=0, every=2))
    state = torch.get_rng_state()
    a = trained(problem, 4, recipe, dropout=0.3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)  # what others draw is nothing to it
    b = trained(problem, 4, recipe, dropout=0.3)
    c = trained(problem, 4, recipe, dropout=0.3, seed=2)
    assert same(state_of(a), state_of(b))
    assert not torch.equal(a.model[0].values, c.model[0].values)
    assert a.history == b.history


def test_resuming_is_bit_for_bit(problem):
    recipe = Recipe(batch_size=32, importance=ImportancePruning(30, start=0, every=2))
    whole = trained(problem, 6, recipe, dropout=0.3)
    half = trained(problem, 3, recipe, dropout=0.3)
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    resumed = SetTrainer(network(dropout=0.3, seed=77), recipe, seed=1)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.history == half.history
    resumed.fit(problem, epochs=3)
    assert same(state_of(resumed), state_of(whole))
    assert resumed.history == whole.history
    assert resumed.updater.topologies == whole.updater.topologies


def test_importance_pruning_by_its_schedule(problem):
    recipe = Recipe(batch_size=32, importance=ImportancePruning(30, start=1, every=2, stop=5))
    records = trained(problem, 8, recipe).history
    pruned = [record.epoch for record in records if record.n_pruned]
    assert pruned == [4, 6]  # behind epochs 3 and 5, each before the next begins
    for before, after in pairwise(records):
        assert after.nnz == before.nnz - after.n_pruned


def test_a_callback_may_end_it(problem):
    trainer = SetTrainer(network())
    seen = []
    records = trainer.fit(
        problem, epochs=9, on_epoch=lambda r: seen.append(r) if len(seen) < 2 else False
    )
    assert [r.epoch for r in records] == [1, 2, 3]
    assert seen == records[:2]
    assert trainer.epochs == 3


def test_clipping(problem):
    """With one step from rest the change is at most lr times the norm."""
    net = network()
    before = torch.cat([p.detach().flatten().clone() for p in net.parameters()])
    recipe = Recipe(lr=1.0, weight_decay=0.0, batch_size=150, max_grad_norm=1e-3)
    SetTrainer(net, recipe).run_epoch(problem)
    after = torch.cat([p.detach().flatten() for p in net.parameters()])
    assert (after - before).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_an_infinite_loss_is_an_error(problem):
    wild = Samples(problem.x * 1e200, problem.y)
    with pytest.raises(FloatingPointError, match="epoch 1"):
        SetTrainer(network(), Recipe(lr=1e3)).fit(wild, epochs=2)


def test_states_of_others_are_refused(problem):
    trainer = trained(problem, 1)
    with pytest.raises(SparsityError, match="SetTrainer"):
        SetTrainer(network()).load_state_dict({"model": {}})
    with pytest.raises(SparsityError, match="the saved one every 3"):
        trainer.load_state_dict(SetTrainer(network(), interval=3).state_dict())


def test_the_optimizer_is_made_by_the_first_epoch():
    with pytest.raises(RuntimeError, match="first epoch"):
        _ = SetTrainer(network()).optimizer
    trainer = SetTrainer(network(), Recipe(weight_decay=0.5), interval=4)
    values, others = trainer.optimizer.param_groups
    assert (values["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    assert len(values["params"]) == len(others["params"]) == 3


def test_detaching_lets_another_trainer_in(problem):
    trainer = trained(problem, 1)
    with pytest.raises(SparsityError):
        SetTrainer(trainer.model, interval=3)
    trainer.detach()
    SetTrainer(trainer.model, interval=3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0.0},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"batch_size": 0},
        {"drop_fraction": 1.5},
        {"max_grad_norm": 0.0},
    ],
)
def test_recipes_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**wrong)


def test_labels_without_an_output_are_refused_before_training():
    net = network()
    before = copy.deepcopy(net.state_dict())
    samples = Samples(torch.rand(8, 20, dtype=torch.float64), torch.arange(8) % 5)
    trainer = SetTrainer(net)
    message = "labels go up to 4, and the model has 3 outputs: it needs 5"
    with pytest.raises(SparsityError, match=message):
        trainer.fit(samples, epochs=1)
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())
    assert trainer.epochs == 0
    for train in (wasap_sgd, wassp_sgd):
        with pytest.raises(SparsityError, match=message):
            train(network(), samples, epochs=1, n_workers=1)


def test_targets_of_other_losses_are_no_labels():
    samples = Samples(torch.rand(8, 20, dtype=torch.float64), torch.arange(8))

    def loss(outputs, targets):
        return F.mse_loss(outputs.sum(1), targets.double())

    SetTrainer(network(), loss=loss).fit(samples, epochs=1)
