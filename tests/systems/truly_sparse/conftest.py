"""Small problems, and workers without processes."""

import copy

import pytest
import torch

from regrow.systems.truly_sparse import Recipe, Samples
from regrow.systems.truly_sparse._mailbox import Mailbox
from regrow.systems.truly_sparse._worker import Job, Worker


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def problem():
    """Three classes of 20 numbers, linearly separable."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(150, 20, generator=generator, dtype=torch.float64)
    y = (x @ torch.randn(20, 3, generator=generator, dtype=torch.float64)).argmax(1)
    return Samples(x, y)


class PoolInProcess:
    """What WorkerPool does, one worker after the other: answers come in the order of requests."""

    def __init__(self, model, samples, *, n_workers, recipe, loss, seed, n_threads):
        shards = [samples.shard(k, n_workers) for k in range(n_workers)]
        self.n_batches = [-(-len(shard) // recipe.batch_size) for shard in shards]
        self.boxes = [Mailbox.of(model) for _ in shards]
        jobs = [
            Job(k, copy.deepcopy(model), shard, recipe, loss, seed, self.boxes[k], n_threads)
            for k, shard in enumerate(shards)
        ]
        self.workers = [Worker(job) for job in jobs]
        self.answers = []
        self.orders = []

    def __len__(self):
        return len(self.workers)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.answers = None

    def send(self, rank, order):
        self.orders.append((rank, order))
        self.answers.append((rank, self.workers[rank].follow(order)))

    def receive(self):
        return self.answers.pop(0)

    def receive_all(self):
        for _ in range(len(self)):
            yield self.receive()


@pytest.fixture
def pool_in_process(monkeypatch):
    """``wasap_sgd`` and ``wassp_sgd`` without processes; the list of pools that they made."""
    made = []

    def make(*args, **kwargs):
        made.append(PoolInProcess(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr("regrow.systems.truly_sparse._parallel.WorkerPool", make)
    return made


@pytest.fixture
def plain():
    """Plain SGD without weight decay, small batches."""
    return Recipe(lr=0.05, momentum=0.0, weight_decay=0.0, batch_size=10)
