import sys

import pytest
import torch
from click.testing import CliRunner

from regrow.cli._app import app

MODEL = """
from torch import nn
def tiny(n_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, n_classes))
made = tiny(10)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with a module of models; torch's threads are put back."""
    (tmp_path / "bench_models.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
    sys.modules.pop("bench_models", None)


def run(*arguments):
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


def test_a_model_of_ones_own(folder):
    done = run(
        "bench_models:tiny", "--input-shape", "3,2,2", "--batch-size", 4, "--sparsity", 0.5,
        "--backends", "torch,reference", "--rounds", 1, "--threads", 1, "--classes", 7,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert "least of 1 rounds" in lines[0]
    assert "1 thread, torch" in lines[1]
    first = next(line.split() for line in lines if line.startswith("1.weight"))
    last = next(line.split() for line in lines if line.startswith("3.weight"))
    assert first[1:3] == ["16x12", "4x12"]
    assert last[1:3] == ["7x16", "4x16"]
    assert lines[-1].split()[:5] == ["faster", "of", "both", "for", "each"]


def test_inference(folder):
    done = run(
        "bench_models:tiny", "--input-shape", "12", "--batch-size", 1, "--rounds", 1,
        "--backends", "torch", "--inference",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("forward pass of each layer")
    assert "masked" not in done.stdout


def test_a_model_of_the_library_has_its_usual_shape(folder):
    done = run(
        "small-cnn", "--batch-size", 1, "--rounds", 1, "--backends", "torch", "--allocation",
        "uniform",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "1x3x32x32" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench_models:tiny"], "give --input-shape for 'bench_models:tiny'"),
        (["bench_models:tiny", "--input-shape", "3,9,9"], "cannot take inputs of shape (128, 3, 9"),
        (["bench_models:tiny", "--input-shape", "3,0"], "input_shape must be at least 1, got 0"),
        (["bench_models:tiny", "--input-shape", "12", "--sparsity", 3], "sparsity must lie in"),
        (
            ["bench_models:tiny", "--input-shape", "12", "--backends", "cuda"],
            "backends must be one",
        ),
        (["no-model", "--input-shape", "12"], "is neither ours nor torchvision's"),
        (["bench_models", "--input-shape", "12"], "your own is named as package.module:function"),
        (["resnet3", "--input-shape", "12"], "near it are resnet34, resnet50, resnet18;"),
        (["bench_models:made", "--input-shape", "12"], "is a Module, a Sequential"),
    ],
)
def test_errors_are_one_line(folder, arguments, message):
    done = run(*arguments, "--rounds", 1)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_form_of_a_shape_is_said(folder):
    done = run("bench_models:tiny", "--input-shape", "784,x")
    assert done.exit_code == 2
    wanted = "must be whole numbers with commas, such as 3,32,32 or 784, got '784,x'"
    assert f"'--input-shape': {wanted}" in done.stderr
