"""Truly sparse training from 1e5 to 1e8 connections.

Seconds of a training step and bytes held between steps, against the number of connections, of
networks 784-n-n-10 on MNIST, batches of 16, SGD with momentum, on two CPU cores; the largest has 20
million neurons. Measured by ``benchmarks/training/truly_sparse_scale.py``, whose table this draws;
dashed lines grow in proportion from the first point. Bytes do; seconds stay within a factor of two
of it: below while all fits the caches, above once a layer's inputs do not.
"""

import csv
import sys
from pathlib import Path

import matplotlib.pyplot as plt

TABLE = Path(__file__).parents[2] / "benchmarks" / "training" / "truly_sparse_scale.csv"
COLUMNS = {"seconds_a_step": "seconds of a step", "held_bytes": "bytes held"}


def main(folder: Path) -> None:
    """Write ``scale.svg`` into a folder."""
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    connections = [int(row["connections"]) for row in rows]
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
    for axis, (column, label) in zip(axes, COLUMNS.items(), strict=True):
        measured = [float(row[column]) for row in rows]
        axis.loglog(connections, measured, "o-", color="tab:blue")
        in_proportion = [measured[0] * n / connections[0] for n in connections]
        axis.loglog(connections, in_proportion, "--", color="tab:gray")
        axis.set_xlabel("connections")
        axis.set_ylabel(label)
    figure.savefig(folder / "scale.svg")
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
