"""What holds for every test: seeds, determinism, and which tests can run on this machine."""

import os
import tempfile

import hypothesis
import pytest

# cuBLAS reads it when CUDA starts; without it deterministic algorithms refuse matrix products.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# Times of back ends that other runs have measured shall not choose here.
os.environ["REGROW_CACHE_DIR"] = tempfile.mkdtemp(prefix="regrow-tests-")

import torch

hypothesis.settings.register_profile(
    "repeatable", deadline=None, derandomize=True, database=None, print_blob=True
)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("repeatable")


def pytest_configure():
    # Models as small as these lose more than they gain by a second thread.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch sees none")
    if item.get_closest_marker("dist") is not None and not torch.distributed.is_available():
        pytest.skip("this build of torch has no torch.distributed")
    torch.manual_seed(0)
