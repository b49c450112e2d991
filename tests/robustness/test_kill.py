"""A study killed at any moment and resumed ends with the numbers of one that was left alone."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from regrow.robustness import read_results
from regrow.study import load_state

SCRIPT = '''
import os, signal
import numpy as np
from torch import nn
from regrow.robustness import compare

def net(n_classes, *, width=8):
    return nn.Sequential(
        nn.Conv2d(3, width, 4, stride=4), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(4 * width, n_classes),
    )

class Killer:
    """Kills the process when it has been told of so many pieces of work."""
    def __init__(self, left): self.left = left
    def say(self, text): pass
    def begin(self, total): pass
    def finish(self): pass
    def advance(self, amount, status):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

def run(out, left=0):
    random = np.random.default_rng(0)
    labels = np.arange(200) % 4
    images = random.integers(0, 120, (200, 32, 32, 3))
    images[np.arange(200), :, 8 * labels] += 90
    images = images.astype(np.uint8)
    return compare(
        net, (images[:160], labels[:160]), (images[160:], labels[160:]),
        methods=["mest-random", "dense"], seeds=1, epochs=7, batch_size=8, lr=0.05,
        corruptions=["glass_blur", "fog"], severities=[2], out=out, resume=True,
        progress=Killer(left),
    )
'''


def rows(path):
    with path.open(newline="") as file:
        return [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]


@pytest.fixture
def program(tmp_path, monkeypatch):
    path = tmp_path / "killed_study.py"
    path.write_text(SCRIPT)
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    return path


def start(program, out, left):
    code = f"import sys; sys.path.append({str(program.parent)!r}); import killed_study as s; "
    code += f"s.run({str(out)!r}, {left})"
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", code])


# A run is 140 weight steps and 3 sets of images, and each is told.
@pytest.mark.slow
def test_killed_many_times_and_resumed(program, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    from killed_study import run

    out = tmp_path / "out"
    cell = out / "cells" / "mest-random-sparsity0.5-seed0"
    for left, epochs in [(50, 2), (102, 7)]:
        process = start(program, out, left)
        assert process.wait(120) == -signal.SIGKILL
        checkpoint = cell / "checkpoint.safetensors"
        # No more is lost than the epoch that was under way.
        assert load_state(checkpoint)["training"]["epochs"] == epochs
    # And once from outside, at whatever moment it is.
    process = start(program, out, 0)
    deadline = time.monotonic() + 120
    while not (out / "cells" / "dense-sparsity0.0-seed0" / "checkpoint.safetensors").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    run(out)
    run(tmp_path / "alone")
    for name in ("results.csv", "runs.csv", "curves.csv"):
        assert rows(out / name) == rows(tmp_path / "alone" / name)
    assert len(read_results(out).runs) == 2
    assert not list(out.rglob("*.partial"))
    assert not (out / "corrupted").exists()
