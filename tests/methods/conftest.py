"""Two gloo ranks, started once for all tests that need them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dist import ranks

import regrow

TESTS = Path(ranks.__file__).parents[1]
TIMEOUT = 400  # seconds; a rank that waits for another waits no longer


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Case -> result, of both ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    package = Path(regrow.__file__).parents[1]
    path = os.pathsep.join([str(package), str(TESTS), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning", ranks.__file__, str(rank), str(folder)],
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
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outputs)[-5000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
