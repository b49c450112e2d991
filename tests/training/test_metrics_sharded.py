"""Metrics of weights that ``fully_shard`` split: the same on each rank, and as of one process."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dist import metrics, sharded

import regrow

pytestmark = pytest.mark.dist
TESTS = Path(metrics.__file__).parents[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Case -> metrics of each step, of both ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    path = os.pathsep.join(
        [str(Path(regrow.__file__).parents[1]), str(TESTS), os.environ.get("PYTHONPATH", "")]
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning", metrics.__file__, str(rank), str(folder)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outputs)[-5000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("mesh", metrics.MESHES)
@pytest.mark.parametrize("case", metrics.CASES)
def test_as_of_one_process(results: list[dict[str, Any]], case: str, mesh: str) -> None:
    alone = metrics.train(case, sharded.net(), sharded.batches()[: metrics.N_STEPS])
    assert len(alone) == metrics.N_STEPS
    for rank in results:
        found = rank[f"{case}/{mesh}"]
        for ours, theirs in zip(found, alone, strict=True):
            assert ours.keys() == theirs.keys()
            for name, value in theirs.items():
                assert ours[name] == pytest.approx(value, rel=1e-9), name
    assert "regrow/layer/one.weight/grad_norm" in alone[0], "of which a rank holds nothing"
    assert results[0] == results[1]
