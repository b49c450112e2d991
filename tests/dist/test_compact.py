"""Truly sparse layers on two gloo ranks, started once for all cases: as one process."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dist import compact

import regrow

pytestmark = pytest.mark.dist
TESTS = Path(compact.__file__).parents[1]
TIMEOUT = 200  # seconds


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Case -> result, of both ranks."""
    folder = tmp_path_factory.mktemp("compact")
    package = Path(regrow.__file__).parents[1]
    path = os.pathsep.join([str(package), str(TESTS), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, compact.__file__, str(rank), str(folder)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=TIMEOUT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    found: list[dict[str, Any]] = [{"output": output} for output in outputs]
    for rank in range(2):
        for name in ("compact", "last"):
            path_of = folder / f"{name}{rank}.pt"
            if path_of.exists():
                found[rank] |= torch.load(path_of, weights_only=True)
    assert all(len(result) > 2 for result in found), "\n".join(outputs)[-5000:]
    return found


def assert_alike(results: list[dict[str, Any]], key: str) -> dict[str, Any]:
    first, second = (result[key] for result in results)
    assert first["history"] == second["history"]
    assert first["steps"] == second["steps"]
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
    return first


def assert_as_one(ours: dict[str, Any], alone: dict[str, Any]) -> None:
    for i, (one, two) in enumerate(zip(ours["topologies"], alone["topologies"], strict=True)):
        assert all(torch.equal(one[name], two[name]) for name in one), i
    for name, value in ours["state"].items():
        torch.testing.assert_close(value, alone["state"][name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("method", "optimizer"), compact.TABLE)
def test_two_ranks_are_alike_and_equal_one_process(
    results: list[dict[str, Any]], method: str, optimizer: str
) -> None:
    ours = assert_alike(results, f"{method}/{optimizer}")
    assert bool(ours["history"]) == (method != "static")
    assert_as_one(ours, compact.train(method, optimizer, compact.global_batches()))


@pytest.mark.parametrize(("view", "first"), compact.WRAPS)
def test_ways_to_wrap(results: list[dict[str, Any]], view: bool, first: bool) -> None:
    """Accumulated without a synchronisation where ``view``."""
    ours = assert_alike(results, f"rigl/view={view}/first={first}")
    assert_as_one(ours, compact.train("rigl", "momentum", compact.global_batches()))


@pytest.mark.parametrize("name", compact.RESIZING)
def test_counts_cannot_change(results: list[dict[str, Any]], name: str) -> None:
    """torch fixes the sizes of parameters when the model is wrapped."""
    for rank in results:
        said = rank[name]
        assert said["error"].startswith("SparsityError"), said
        assert "is truly sparse and would get another number of connections" in said["error"]
        assert "keep the layer masked" in said["error"]
        assert said["same"]
        assert said["steps"] == 0, "known before training starts, so said then"


def test_edits(results: list[dict[str, Any]]) -> None:
    ours = assert_alike(results, "edits")
    assert "another number of connections" in ours["resize"]
    assert "ranks decided different topologies" in ours["differ"]
    assert ours["untouched"]
    assert len(ours["history"]) == 1


def test_sharded_values_are_refused(results: list[dict[str, Any]]) -> None:
    for rank in results:
        said = rank["sharded"]["error"]
        assert "truly sparse and split over ranks, which cannot be" in said
        assert not rank["sharded"]["hooks"]


@pytest.mark.parametrize("method", ["static", "set"])
def test_ranks_with_other_topologies_are_told(results: list[dict[str, Any]], method: str) -> None:
    """``compress_`` with another seed on each rank: DDP copies values, and no topology."""
    for rank in results:
        assert "Error: " in rank[f"other topologies/{method}"]["error"]


def test_a_layer_that_one_rank_leaves_out(results: list[dict[str, Any]]) -> None:
    """DDP averages its gradient all the same; ranks must not wait for each other."""
    assert all("unused on one" in rank for rank in results), results[0]["output"][-2000:]
    ours = results[0]["unused on one"]
    assert ours["error"] == results[1]["unused on one"]["error"] == ""
    assert_alike(results, "unused on one")
    assert len(ours["history"]) > 0
