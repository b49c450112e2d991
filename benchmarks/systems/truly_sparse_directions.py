"""All-ReLU against ReLU at the same sparsity, and what importance pruning costs: two tables.

    OMP_NUM_THREADS=1 python benchmarks/systems/truly_sparse_directions.py --data DIR
    OMP_NUM_THREADS=1 python benchmarks/systems/truly_sparse_directions.py --data DIR --name cifar10

DIR holds the data sets in their standard layouts (MNIST/raw, cifar-10-batches-py). The networks and
settings are the paper's (Curci, Mocanu & Pechenizkiy 2021) but for the number of epochs; each seed
has its own topology, first weights, order and dropout, alike for all that it compares. Accuracies
are those of the last epoch on the test set.

What was measured is in ``docs/how-to/truly-sparse-at-scale.md``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from regrow.data import ImageData, load
from regrow.systems.truly_sparse import (
    ImportancePruning,
    Recipe,
    Samples,
    SetTrainer,
    predict,
    sparse_mlp,
)

HIDDEN = {"mnist": (1000, 1000, 1000), "cifar10": (4000, 1000, 4000)}
SLOPE = {"mnist": 0.6, "cifar10": 0.75}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--name", choices=sorted(HIDDEN), default="mnist")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--percentile", type=float, default=10.0)
    options = parser.parse_args()
    train, test = samples_of(load(options.name, options.data))
    # A few neurons at a time, but often: what goes is then mostly what growth gave to dead ones.
    pruning = ImportancePruning(
        options.percentile, start=0, every=1, stop=max(options.epochs - 2, 1)
    )
    rows = []
    for seed in range(options.seeds):
        row = []
        for activation, importance in (("all_relu", None), ("relu", None), ("all_relu", pruning)):
            start = time.perf_counter()
            result = run(options, train, test, activation, importance, seed)
            row.append(result)
            print(
                f"seed {seed} {activation:8s} {'pruned' if importance else '      '} "
                f"accuracy {result[0]:.2f} %, hidden connections {result[1]:,}, "
                f"{time.perf_counter() - start:.0f} s",
                flush=True,
            )
        rows.append(row)
    print_tables(rows)


def samples_of(data: ImageData) -> tuple[Samples, Samples]:
    """Pixels as features, all shifted and scaled alike."""
    pair = []
    scale = torch.tensor(data.std), torch.tensor(data.mean)
    for images, labels in (
        (data.train_images, data.train_labels),
        (data.test_images, data.test_labels),
    ):
        x = (torch.from_numpy(images).float() / 255 - scale[1]) / scale[0]
        if data.name == "mnist":
            x = x[:, 2:-2, 2:-2, :1]  # 28x28 and grey, as it came
        pair.append(Samples(x.flatten(1).contiguous(), torch.from_numpy(labels)))
    return pair[0], pair[1]


def run(
    options: argparse.Namespace,
    train: Samples,
    test: Samples,
    activation: str,
    importance: ImportancePruning | None,
    seed: int,
) -> tuple[float, int]:
    """Test accuracy in per cent, and connections of the hidden layers at the end."""
    net = sparse_mlp(
        (train.n_features, *HIDDEN[options.name], 10),
        activation=activation,
        slope=SLOPE[options.name],
        dropout=0.3,
        seed=seed,
    )
    trainer = SetTrainer(net, Recipe(importance=importance), seed=seed)
    trainer.fit(train, epochs=options.epochs)
    hits = predict(net, test.x).argmax(1) == test.y
    return 100 * hits.double().mean().item(), trainer.updater.nnz


def print_tables(rows: list[list[tuple[float, int]]]) -> None:
    print("\nAccuracy (%) at the same sparsity\n\n| seed | All-ReLU | ReLU | difference |")
    print("|---|---|---|---|")
    gains = []
    for seed, (ours, relu, _) in enumerate(rows):
        gains.append(ours[0] - relu[0])
        print(f"| {seed} | {ours[0]:.2f} | {relu[0]:.2f} | {gains[-1]:+.2f} |")
    means = [statistics.mean(row[i][0] for row in rows) for i in range(3)]
    print(f"| mean | {means[0]:.2f} | {means[1]:.2f} | {statistics.mean(gains):+.2f} |")
    print("\nImportance pruning (All-ReLU)\n")
    print("| seed | accuracy before | accuracy | difference | connections removed (%) |")
    print("|---|---|---|---|---|")
    shares = []
    for seed, (before, _, pruned) in enumerate(rows):
        shares.append(100 * (1 - pruned[1] / before[1]))
        print(
            f"| {seed} | {before[0]:.2f} | {pruned[0]:.2f} | {pruned[0] - before[0]:+.2f} | "
            f"{shares[-1]:.1f} |"
        )
    print(
        f"| mean | {means[0]:.2f} | {means[2]:.2f} | {means[2] - means[0]:+.2f} | "
        f"{statistics.mean(shares):.1f} |"
    )


if __name__ == "__main__":
    main()
