"""log_metrics: who is recognised, what is called, what is refused."""

import builtins
import doctest
import importlib
import logging
import math
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tiny_cases import METHODS, OPTIMIZERS, batches, step, tiny_net

import regrow
from regrow.integrations import log_metrics


class Writer:
    """As TensorBoard's ``SummaryWriter``."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def add_scalar(
        self, tag: str, scalar_value: float, global_step: int | None = None, walltime: Any = None
    ) -> None:
        self.calls.append((global_step, tag, scalar_value))


class Run:
    """As a run of W&B."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def log(self, data: dict[str, Any], step: int | None = None, commit: Any = None) -> None:
        assert type(data) is dict
        self.calls += [(step, *item) for item in data.items()]


class Tracker:
    """As the module ``mlflow``; it has a ``log`` of another kind, too."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def log(self, message: str) -> None:
        raise AssertionError("that is for text")

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert type(metrics) is dict
        self.calls += [(step, *item) for item in metrics.items()]


@pytest.mark.parametrize("logger", [Writer, Run, Tracker])
def test_a_logger_gets_every_number_of_every_call(logger: Any) -> None:
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = METHODS["rigl"](net, optimizer, seed=5)
    target = logger()
    wanted: list[tuple[Any, ...]] = []
    updater.on_metrics(log_metrics(target), every=2, per_layer=True)
    updater.on_metrics(
        lambda at, metrics: wanted.extend((at, *item) for item in metrics.items()),
        every=2,
        per_layer=True,
    )
    for batch in batches(6):
        step(net, optimizer, batch)
    assert {at for at, _, _ in wanted} == {2, 4, 6}
    assert len(wanted) > 100
    assert target.calls == wanted


def test_a_function_is_taken_as_it_is() -> None:
    seen = []

    def write(at: int, metrics: Mapping[str, float]) -> None:
        seen.append((at, dict(metrics)))

    assert log_metrics(write) is write
    assert log_metrics(log_metrics(write)) is write
    log_metrics(lambda at, metrics: write(at, metrics))(3, {"a": 1.0})
    assert seen == [(3, {"a": 1.0})]


def test_a_module_s_function_is_looked_up_when_it_is_called() -> None:
    """As ``wandb.init()`` replaces ``wandb.log``."""
    run = Run()
    write = log_metrics(run)
    calls = []
    run.log = lambda data, step=None: calls.append((data, step))  # type: ignore[method-assign]
    write(1, {"a": 2.0})
    assert calls == [({"a": 2.0}, 1)]


class Positional:
    """Has a method of the right name that takes no step."""

    def log_metrics(self, metrics: Any) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (logging.getLogger("x"), "Logger"),
        (math, "module 'math'"),
        (torch, "module 'torch'"),
        (builtins, "module 'builtins'"),
        (Writer, "class Writer"),
        (Positional(), "Positional"),
        (lambda metrics: None, "function '<lambda>'"),
        (lambda: None, "function '<lambda>'"),
        ("runs/a", "str"),
        (None, "NoneType"),
        ({}, "dict"),
        ([Writer()], "list"),
    ],
    ids=repr,
)
def test_refused_with_what_works(target: Any, named: str) -> None:
    with pytest.raises(TypeError) as refusal:
        log_metrics(target)
    message = str(refusal.value)
    assert named in message
    for works in ("SummaryWriter", "W&B", "mlflow", "Lightning", "function of (step, metrics)"):
        assert works in message


def test_names_are_ones_that_mlflow_allows() -> None:
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./")
    net = torch.nn.ModuleDict({"a+b|c (d)": torch.nn.Linear(4, 4), "x": torch.nn.Linear(4, 4)})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    updater = regrow.static(net, optimizer, sparsity=0.5)
    names = updater.metrics(per_layer=True)
    assert "regrow/layer/a_b_c__d_.weight/nnz" in names
    assert all(set(name) <= allowed for name in names)
    assert all(name.startswith("regrow/") for name in names)


def test_no_logger_is_imported() -> None:
    code = (
        "import regrow.integrations, sys;"
        "print(*{'tensorboard', 'tensorboardX', 'wandb', 'mlflow'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_it_is_there_on_first_use() -> None:
    assert regrow.integrations is importlib.import_module("regrow.integrations")


def test_the_example_runs() -> None:
    module = importlib.import_module("regrow.integrations._log_metrics")
    result = doctest.testmod(module)
    assert (result.failed, result.attempted > 5) == (0, True)
