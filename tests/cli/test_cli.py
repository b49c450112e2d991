import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from regrow.cli import main
from regrow.cli._app import app

MODEL = """
from torch import nn
def tiny(n_classes, *, width=8):
    return nn.Sequential(
        nn.Conv2d(3, width, 4, stride=4), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, n_classes),
    )
class Particular(nn.Linear):
    def forward(self, images):
        raise AssertionError("32 doesn't match 224")
def particular(n_classes):
    return Particular(2, n_classes)
def broken(n_classes):
    raise ValueError("no such thing\\nas this")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with a data set and a module of models."""
    random = np.random.default_rng(0)
    labels = np.arange(200) % 4
    images = random.integers(0, 120, (200, 32, 32, 3))
    images[np.arange(200), :, 8 * labels] += 90
    images = images.astype(np.uint8)
    np.savez(
        tmp_path / "bars.npz",
        train_images=images[:160], train_labels=labels[:160],
        test_images=images[160:], test_labels=labels[160:],
    )  # fmt: skip
    (tmp_path / "mine.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    yield tmp_path
    sys.modules.pop("mine", None)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


STUDY = ["robustness", "--data", "npz", "--data-dir", "bars.npz", "--model", "mine:tiny",
         "--epochs", 7, "--batch-size", 8, "--seeds", 2, "--methods", "dense, static,set",
         "--corruptions", "brightness,fog", "--severities", "2"]  # fmt: skip


def test_a_study_from_the_command_line(folder):
    done = run(*STUDY, "--out", "out", "--sparsity", "0.4,0.6")
    assert done.exit_code == 0, done.output
    assert "5 arms (dense, static, set; sparsity 0.4, 0.6) x 2 seeds = 10 runs" in done.stderr
    assert "That takes about" in done.stderr
    assert "Difference to dense training in percentage points" in done.stdout
    assert "2 of 15 common" in done.stdout
    assert "Report: out/report.html" in done.stdout
    answer = done.stdout.strip().splitlines()[-4]
    assert answer.startswith(("Yes", "No", "In part"))
    with (folder / "out" / "runs.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    assert {(r["data"], r["model"]) for r in runs} == {("npz", "mine:tiny")}
    assert len(runs) == 10

    again = run(*STUDY, "--out", "out", "--sparsity", "0.4,0.6")
    assert again.exit_code == 2
    assert again.stderr.startswith("Error: out already holds this study: go on with it (")
    assert "--resume" in again.stderr
    assert len(again.stderr.splitlines()) == 1
    other = run(*STUDY, "--out", "out", "--sparsity", "0.4", "--resume")
    assert other.exit_code == 2
    assert "sparsities is [0.4, 0.6] there and [0.4] here" in other.stderr
    resumed = run(*STUDY, "--out", "out", "--sparsity", "0.4,0.6", "--resume")
    assert resumed.exit_code == 0
    assert resumed.stdout == done.stdout

    page = (folder / "out" / "report.html").read_bytes()
    (folder / "out" / "report.html").unlink()
    report = run("report", "out")
    assert report.exit_code == 0
    assert report.stdout == "Report: out/report.html\n"
    assert (folder / "out" / "report.html").read_bytes() == page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", 2], r"40 weight steps give 5 rewirings"),
        (["--model", "mine:huge"], "has no 'huge'"),
        (["--model", "mine:broken"], "no such thing as this"),
        (["--model", "alexnet"], "alexnet"),
        (["--methods", "dense,snip"], "method must be one of"),
        (["--sparsity", "0.4,1"], "sparsity must lie in"),
        (["--severities", "0"], "severity must be at least 1"),
        (["--corruptions", "fog,rain"], "corruption must be one of"),
        (["--data-dir", "nowhere"], "nowhere"),
        (["--data", "digits"], "data_dir"),
        (["--train-samples", 1000], "1000 samples"),
        (["--device", "cuda:77"], "cuda:77"),
        (["--out", "mine.py"], "mine.py is a file"),
        (["--out", "."], "not empty and holds no study"),
        (["--lr", "0"], "lr must be"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(folder, arguments, message):
    before = sorted(folder.rglob("*"))
    done = run(*STUDY, *arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert not done.stdout
    assert [p for p in sorted(folder.rglob("*")) if "__pycache__" not in str(p)] == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sparsity", "half"], ["--sparsity", ","], ["--severities", "1.5"], ["--seeds", 0],
        ["--data", "svhn"], ["--weight-step", "never"], ["--surprise"],
    ],
)  # fmt: skip
def test_bad_options_are_explained_by_click(folder, arguments):
    done = run(*STUDY, *arguments)
    assert done.exit_code == 2
    assert arguments[0] in done.stderr
    assert "Traceback" not in done.output


def test_a_training_that_diverges_has_exit_status_1(folder):
    done = run(*STUDY, "--lr", "1e20", "--methods", "dense")
    assert done.exit_code == 1
    assert "learning rate" in done.stderr
    assert "Traceback" not in done.output


def test_an_interrupt_says_how_to_go_on(folder, monkeypatch):
    from regrow.cli import _robustness as module

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "compare", stop)
    done = run(*STUDY, "--out", "here")
    assert done.exit_code == 130
    assert "with --resume goes on with here" in done.stderr


@pytest.mark.parametrize("command", [(), ("robustness",), ("report",), ("plan",), ("corrupt",)])
def test_help_is_there_and_names_the_defaults(command):
    done = run(*command, "--help")
    assert done.exit_code == 0
    assert "Usage: " in done.stdout
    if command == ("robustness",):
        # Every option says what it does, and its default where it has one.
        (robustness,) = [c for name, c in app.commands.items() if name == "robustness"]
        for option in robustness.params:
            assert option.help, option
            if not option.is_flag and isinstance(option.default, str | int | float):
                assert option.show_default, option
        text = " ".join(done.stdout.split())
        for default in ("[default: digits]", "[default: 0.5]", "digits 15", "[default: 1,3,5]"):
            assert default in text
        assert "95 % interval" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model", "small-cnn"], ["features.0.weight", "sparsity 0.9", "FLOPs"]),
        (["--model", "resnet18", "--classes", "100", "--method", "static"], ["100x512", "3x3"]),
        (["--model", "mobilenet_v3_small", "--sparsity", "0.5"], ["1000x1024"]),
        (["--model", "mine:tiny", "--method", "granet-random"], ["5.weight", "sparsity 0.9"]),
        (["--model", "mine:tiny", "--input-size", "3,32,32"], ["forward pass"]),
    ],
)
def test_plans(folder, arguments, expected):
    done = run("plan", *arguments)
    assert done.exit_code == 0, done.output
    for part in expected:
        assert part in done.stdout
    assert ("forward pass" in done.stdout) == (
        "mine:tiny" not in arguments or "3,32,32" in arguments
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet5"], "neither ours nor torchvision's; near it are resnet50"),
        (["--model", "small-cnn", "--sparsity", "1.0"], "sparsity must lie in [0, 1)"),
        (["--model", "small-cnn", "--input-size", "1,32,32"], "cannot take an input of shape"),
        (
            ["--model", "mine:particular", "--input-size", "3,32,32"],
            "(3, 32, 32): 32 doesn't match",
        ),
    ],
)
def test_plans_that_cannot_be_made(folder, arguments, message):
    done = run("plan", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_sheet_of_corruptions(folder):
    Image.new("RGB", (50, 40), (10, 200, 90)).save("in.jpg")
    done = run("corrupt", "in.jpg")
    assert done.exit_code == 0
    assert done.stdout == "Picture: in-corrupted.png\n"
    with Image.open("in-corrupted.png") as picture:
        assert picture.width > 300
    missing = run("corrupt", "out.jpg", "--severity", 2)
    assert missing.exit_code == 2
    assert missing.stderr == "Error: there is no picture out.jpg\n"


def test_without_click_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 2
    assert "pip install 'regrow[cli]'" in capsys.readouterr().err


def test_main_finds_modules_in_the_current_folder_last(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(folder)])
    with pytest.raises(SystemExit) as stopped:
        main(["plan", "--model", "mine:tiny"])
    assert stopped.value.code == 0
    assert sys.path[-1] == str(folder)
    assert "5.weight" in capsys.readouterr().out


def test_a_plan_needs_no_package_of_the_studies():
    script = (
        "import sys\n"
        "for name in ('scipy', 'cv2', 'PIL', 'matplotlib', 'rich', 'safetensors', 'sklearn',"
        " 'torchvision'):\n"
        "    sys.modules[name] = None\n"
        "from regrow.cli import main\n"
        "main(['plan', '--model', 'small-cnn'])\n"
    )
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "classifier.weight" in done.stdout
