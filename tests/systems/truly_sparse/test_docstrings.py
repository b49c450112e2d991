"""Examples in docstrings run."""

import doctest
import importlib

import pytest

PACKAGE = "regrow.systems.truly_sparse"


@pytest.mark.parametrize("name", ["_activation", "_importance", "_model", "_trainer"])
def test_examples(name):
    found = doctest.testmod(importlib.import_module(f"{PACKAGE}.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
