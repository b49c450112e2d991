"""Real processes: what they compute, and what is left of them."""

import os
from multiprocessing import active_children

import pytest
import torch
from torch.nn import functional as F

from regrow.nn import SparseLinear
from regrow.systems.truly_sparse import Recipe, Samples, WorkerError, sparse_mlp, wassp_sgd
from regrow.systems.truly_sparse._pool import WorkerPool
from regrow.systems.truly_sparse._worker import GradientOrder


def network(**more):
    return sparse_mlp((20, 30, 30, 3), epsilon=3, dtype=torch.float64, backend="torch", **more)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def pool():
    """Two processes for the whole module; what a test breaks, it breaks for those behind it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(150, 20, generator=generator, dtype=torch.float64)
    samples = Samples(x, torch.arange(150) % 3)
    recipe = Recipe(lr=0.05, momentum=0.0, weight_decay=0.0, batch_size=10)
    made = WorkerPool(
        network(), samples, n_workers=2, recipe=recipe, loss=F.cross_entropy, seed=0, n_threads=1
    )
    with made:
        yield made, samples, recipe


class Lent:
    """The pool for one training: it outlives that, and its copies of the model are as they were."""

    def __init__(self, pool):
        self._pool = pool

    def __getattr__(self, name):
        return getattr(self._pool, name)

    def __len__(self):
        return len(self._pool)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def test_processes_train_as_workers_here_do(pool, pool_in_process, monkeypatch):
    made, samples, recipe = pool
    here, there = network(dropout=0.0), network(dropout=0.0)
    arguments = {"epochs": 4, "n_workers": 2, "local_share": 0.5, "recipe": recipe, "seed": 0}
    wassp_sgd(here, samples, **arguments)
    monkeypatch.setattr(
        "regrow.systems.truly_sparse._parallel.WorkerPool", lambda *_, **__: Lent(made)
    )
    wassp_sgd(there, samples, **arguments)
    for one, other in zip(here, there, strict=True):
        if isinstance(one, SparseLinear):
            assert one.topology == other.topology
            torch.testing.assert_close(one.values, other.values, rtol=1e-9, atol=1e-12)


def test_an_error_of_a_worker_comes_with_its_traceback(pool):
    made, _, _ = pool
    made.boxes[0].put(list(network().parameters()))
    made.send(0, "nonsense")
    with pytest.raises(WorkerError, match=r"worker 0 failed:\nTraceback(.|\n)*AttributeError"):
        made.receive()


def ask_in_context(pool):
    with pool:
        pool.send(1, GradientOrder(1, 0, rewired=False))
        pool.receive()


def test_a_dying_worker_is_an_error_and_takes_all_along(pool):
    made, _, _ = pool
    pids = [process.pid for process in made._processes]
    made._processes[1].kill()
    made._processes[1].join()
    with pytest.raises(WorkerError, match="worker 1 ended with exit code -9"):
        ask_in_context(made)
    assert not any(map(is_running, pids))
    assert not active_children()
