import json
import platform
import re
import subprocess

import numpy as np
import torch

from regrow.study import _environment as module
from regrow.study import environment


def test_versions_and_machine_are_told_in_json():
    here = environment()
    assert json.loads(json.dumps(here)) == here
    assert here["versions"]["python"] == platform.python_version()
    assert here["versions"]["torch"] == torch.__version__
    assert here["versions"]["numpy"] == np.__version__
    assert here["device"] == "cpu"
    assert here["cores"] >= 1
    assert here["commit"] is None or re.fullmatch("[0-9a-f]{40}(-dirty)?", here["commit"])


def test_the_commit_is_that_of_a_checkout_and_not_of_a_folder_around_it(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
            cwd=tmp_path, check=True, capture_output=True,
        )  # fmt: skip

    inside = tmp_path / "site-packages" / "regrow.py"
    inside.parent.mkdir()
    inside.write_text("x = 1\n")
    (tmp_path / "other.txt").write_text("y")
    git("init", "-q")
    git("add", "other.txt")
    git("commit", "-qm", "a")
    monkeypatch.setattr(module, "__file__", str(inside))
    assert environment()["commit"] is None
    git("add", "site-packages")
    git("commit", "-qm", "b")
    commit = environment()["commit"]
    assert re.fullmatch("[0-9a-f]{40}", commit)
    inside.write_text("x = 2\n")
    assert environment()["commit"] == f"{commit}-dirty"


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment()["commit"] is None
