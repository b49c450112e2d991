"""Drop fractions over a training.

What fraction of its connections each layer replaces, for the schedules of 1,000 steps that the
methods use by default: RigL's and SET's cosine ends where rewiring stops, GraNet's at 0.005 with
the training. Dots are the rewirings, every 100 steps.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

from regrow.schedules import UpdateWindow, constant, cosine, linear

N_STEPS = 1000


def main(folder: Path) -> None:
    """Write ``drop_fraction.svg`` into a folder."""
    three_quarters = UpdateWindow.of_training(N_STEPS, interval=100, stop_at=0.75)
    whole = UpdateWindow.of_training(N_STEPS, interval=100, stop_at=1.0)
    schedules = {
        "rigl, set_training: cosine 0.3 to 0": (cosine(0.3, end=750), three_quarters),
        "granet: cosine 0.5 to 0.005": (cosine(0.5, 0.005, end=N_STEPS), whole),
        "SET's own: constant(0.3)": (constant(0.3), whole),
        "linear(0.3, 0)": (linear(0.3, 0.0, end=750), three_quarters),
    }
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    steps = range(0, N_STEPS + 1, 5)
    for name, (schedule, window) in schedules.items():
        (line,) = axes.plot(steps, [schedule(step) for step in steps], alpha=0.5, label=name)
        due = list(window.steps)
        axes.plot(due, [schedule(step) for step in due], "o", ms=4, color=line.get_color())
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("drop fraction")
    axes.legend(fontsize=8)
    figure.savefig(folder / "drop_fraction.svg")
    plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
