"""The directions of the paper, on a part of MNIST: benchmarks/systems has them on the whole."""

import os
from pathlib import Path

import pytest
import torch

from regrow.systems.truly_sparse import (
    ImportancePruning,
    Recipe,
    Samples,
    SetTrainer,
    predict,
    sparse_mlp,
)

FOLDER = Path(os.environ.get("REGROW_TEST_DATA", "")) / "MNIST" / "raw"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (os.environ.get("REGROW_TEST_DATA") and FOLDER.is_dir()),
        reason="REGROW_TEST_DATA names no folder with MNIST/raw",
    ),
]


def read(kind, n):
    """Some samples from the files as they are published."""
    images = (FOLDER / f"{kind}-images-idx3-ubyte").read_bytes()[16 : 16 + 784 * n]
    labels = (FOLDER / f"{kind}-labels-idx1-ubyte").read_bytes()[8 : 8 + n]
    x = torch.tensor(list(images), dtype=torch.float32).view(n, 784)
    return Samples((x / 255 - 0.1307) / 0.3081, torch.tensor(list(labels)))


def trained(train, test, activation, seed, importance=None):
    sizes = (784, 200, 200, 200, 10)
    net = sparse_mlp(sizes, epsilon=10, activation=activation, dropout=0.3, seed=seed)
    recipe = Recipe(lr=0.05, batch_size=64, importance=importance)
    trainer = SetTrainer(net, recipe, seed=seed)
    trainer.fit(train, epochs=12)
    hits = predict(net, test.x).argmax(1) == test.y
    return 100 * hits.double().mean().item(), trainer.updater.nnz


def mean(results):
    return sum(accuracy for accuracy, _ in results) / len(results)


def test_all_relu_and_importance_pruning_go_the_papers_way():
    train, test = read("train", 5000), read("t10k", 5000)
    pruning = ImportancePruning(20, start=1, every=2, stop=9)
    ours = [trained(train, test, "all_relu", seed) for seed in range(2)]
    relu = [trained(train, test, "relu", seed) for seed in range(2)]
    pruned = [trained(train, test, "all_relu", seed, pruning) for seed in range(2)]
    assert mean(ours) > 90
    assert mean(ours) > mean(relu)
    removed = [1 - after / before for (_, before), (_, after) in zip(ours, pruned, strict=True)]
    assert min(removed) > 0.3
    # A thousand steps leave little time to heal: on the whole set it is less.
    assert mean(pruned) > mean(ours) - 1.5
