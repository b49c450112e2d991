"""WASAP-SGD and WASSP-SGD by the definition, with workers in this process."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from regrow.nn import SparseLinear
from regrow.systems.truly_sparse import (
    ImportancePruning,
    Recipe,
    Samples,
    attach_set,
    predict,
    sparse_mlp,
    wasap_sgd,
    wassp_sgd,
)
from regrow.systems.truly_sparse._server import Server
from regrow.systems.truly_sparse._trainer import order_of
from regrow.systems.truly_sparse._worker import GradientOrder, TrainingOrder, _seed


def network(seed=4, **more):
    return sparse_mlp((20, 30, 30, 3), epsilon=3, dtype=torch.float64, seed=seed, **more)


def weights_of(net):
    return [m.dense_weight() for m in net if isinstance(m, SparseLinear)]


def accuracy(net, samples):
    return (predict(net, samples.x).argmax(1) == samples.y).double().mean().item()


def test_synchronous_steps_are_those_of_one_large_batch(problem, plain, pool_in_process):
    recipe = replace(plain, drop_fraction=0.0, momentum=0.9, weight_decay=0.01)
    net, twin = network(), network()
    wassp_sgd(net, problem, epochs=2, n_workers=3, local_share=0.0, warmup_epochs=1, recipe=recipe)
    (pool,) = pool_in_process
    shards = [worker._job.samples for worker in pool.workers]
    seeds = [_seed(worker._job, "gradients") for worker in pool.workers]
    values = [m.values for m in twin if isinstance(m, SparseLinear)]
    others = [m.bias for m in twin if isinstance(m, SparseLinear)]
    optimizer = torch.optim.SGD(
        [{"params": values, "weight_decay": 0.01}, {"params": others}], lr=0.0, momentum=0.9
    )
    n_batches = 5
    for update in range(2 * n_batches):
        epoch, index = update // n_batches + 1, update % n_batches
        rows = [
            order_of(shard, seed, epoch)[10 * index : 10 * index + 10]
            for shard, seed in zip(shards, seeds, strict=True)
        ]
        x = torch.cat([s.x[r] for s, r in zip(shards, rows, strict=True)])
        y = torch.cat([s.y[r] for s, r in zip(shards, rows, strict=True)])
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 + 2 * min(1, (update + 1) / n_batches))
        optimizer.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        optimizer.step()
    for ours, expected in zip(weights_of(net), weights_of(twin), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("train", [wasap_sgd, wassp_sgd])
def test_both_learn_and_keep_the_counts(train, problem, plain, pool_in_process):
    net = network()
    before = [m.nnz for m in net if isinstance(m, SparseLinear)]
    output = net[4].topology
    recipe = replace(plain, lr=0.02, momentum=0.9)
    history = train(net, problem, epochs=20, n_workers=2, recipe=recipe, seed=3)
    assert [r.epoch for r in history.together] == list(range(1, 15))
    assert [[r.epoch for r in worker] for worker in history.alone] == [[1, 2, 3, 4, 5, 6]] * 2
    assert history.together[-1].loss < 0.6 * history.together[0].loss
    assert accuracy(net, problem) > 0.8
    assert [m.nnz for m in net if isinstance(m, SparseLinear)] == before
    assert net[4].topology == output  # it does not evolve, on no worker


def test_an_epoch_is_one_pass_over_all_samples(problem, plain, pool_in_process):
    wasap_sgd(network(), problem, epochs=3, n_workers=2, local_share=0.0, recipe=plain)
    (pool,) = pool_in_process
    assert pool.n_batches == [8, 8]
    orders = [order for _, order in pool.orders]
    assert len(orders) == 3 * 16
    for rank in range(2):
        mine = [(o.epoch, o.index) for k, o in pool.orders if k == rank]
        assert mine == [(e, i) for e in (1, 2, 3) for i in range(8)]


def test_rewiring_reaches_workers_and_old_gradients_fit(problem, plain, pool_in_process):
    """Of gradients by an older topology, entries of connections that are gone are dropped."""
    seen = []
    taken = Server.gradients

    def watched(self, rank):
        sent = list(self._sent[rank])
        found = taken(self, rank)
        raw = self.pool.boxes[rank].floats
        at = 0
        grads = dict(zip(map(id, self.model.parameters()), found, strict=True))
        for parameter in self.model.parameters():
            layers = [m for m in self.model if getattr(m, "values", None) is parameter]
            if not layers:
                at += parameter.numel()
                continue
            layer = layers[0]
            old = sent[list(self._values).index(id(parameter))]
            by_place = dict(zip(old.indices.tolist(), raw[at : at + old.nnz].tolist(), strict=True))
            expected = [by_place.get(i, 0.0) for i in layer.topology.indices.tolist()]
            assert grads[id(parameter)].tolist() == expected
            seen.append(old != layer.topology)
            at += old.nnz
        return found

    server_gradients, Server.gradients = Server.gradients, watched
    try:
        recipe = replace(plain, importance=ImportancePruning(20, start=0, every=1))
        net = network()
        nnz = sum(m.nnz for m in net if isinstance(m, SparseLinear))
        history = wasap_sgd(net, problem, epochs=4, n_workers=2, local_share=0.0, recipe=recipe)
    finally:
        Server.gradients = server_gradients
    (pool,) = pool_in_process
    assert any(seen)
    assert not all(seen)
    assert sum(o.rewired for _, o in pool.orders) >= 3
    dropped = sum(r.n_pruned for r in history.together)
    assert dropped > 0
    assert history.together[-1].nnz == nnz - dropped


def test_workers_have_the_servers_weights(problem, plain, pool_in_process):
    net = network()
    wassp_sgd(net, problem, epochs=3, n_workers=2, local_share=0.0, recipe=plain)
    (pool,) = pool_in_process
    # Each has those of one update ago; the topology of the last rewiring at any rate.
    for worker in pool.workers:
        for ours, theirs in zip(net, worker._model, strict=True):
            if isinstance(ours, SparseLinear):
                assert ours.topology == theirs.topology


def test_the_second_phase_averages_what_workers_end_with(problem, plain, pool_in_process):
    net = network()
    wasap_sgd(net, problem, epochs=2, n_workers=2, local_share=0.5, recipe=plain, seed=5)
    (pool,) = pool_in_process
    kinds = [type(order) for _, order in pool.orders]
    assert kinds == [GradientOrder] * 16 + [TrainingOrder] * 2
    theirs = [worker._model for worker in pool.workers]
    assert theirs[0][0].topology == theirs[1][0].topology  # one epoch: not rewired yet
    for ours, one, other in zip(weights_of(net), *map(weights_of, theirs), strict=True):
        torch.testing.assert_close(ours, (one + other) / 2, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(net[0].bias, (theirs[0][0].bias + theirs[1][0].bias) / 2)
    assert not torch.equal(theirs[0][0].values, theirs[1][0].values)


def test_the_same_seed_gives_the_same_network(problem, plain, pool_in_process):
    def run(seed):
        net = network(dropout=0.3)
        wassp_sgd(net, problem, epochs=4, n_workers=2, recipe=plain, seed=seed)
        return net.state_dict()

    one, same, other = run(1), run(1), run(2)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["0.values"], other["0.values"])


def test_compressed_rows(problem, plain, pool_in_process):
    sp = pytest.importorskip("scipy.sparse")
    x = problem.x * (problem.x.abs() > 1)
    nets = [network(), network()]
    for net, given in zip(nets, (x, sp.csr_matrix(x.numpy())), strict=True):
        wassp_sgd(net, Samples(given, problem.y), epochs=2, n_workers=2, recipe=plain)
    for one, other in zip(*map(weights_of, nets), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"epochs": 0}, "epochs"),
        ({"n_workers": 0}, "n_workers"),
        ({"local_share": 1.5}, "local_share"),
        ({"n_threads": 0}, "n_threads"),
    ],
)
def test_arguments_are_checked(problem, wrong, error):
    with pytest.raises(ValueError, match=error):
        wasap_sgd(network(), problem, **({"epochs": 2} | wrong))


def test_models_that_cannot_be_trained_so_are_refused(problem):
    with pytest.raises(ValueError, match="two truly sparse layers"):
        wasap_sgd(torch.nn.Linear(20, 3), problem, epochs=2)
    mixed = network()
    mixed[0].bias.data = mixed[0].bias.data.float()
    with pytest.raises(ValueError, match="one dtype"):
        wassp_sgd(mixed, problem, epochs=2)
    with pytest.raises(ValueError, match="sent to another process"):
        wasap_sgd(network(), problem, epochs=2, loss=lambda out, y: out.sum())
    with pytest.raises(ValueError, match="n_workers=200"):
        wasap_sgd(network(), problem, epochs=2, n_workers=200)


def test_nothing_is_left_attached(problem, pool_in_process):
    net = network()
    with pytest.raises(FloatingPointError):
        wassp_sgd(net, problem, epochs=2, n_workers=2, recipe=Recipe(lr=1e300))
    attach_set(net, Recipe(), interval=1)  # it has no updater any more
