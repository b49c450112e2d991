"""TensorBoard, MLflow and W&B themselves: written through log_metrics, read back by their readers.

Each is skipped where it is not installed. Nothing leaves the machine.
"""

import importlib
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_cases import METHODS, OPTIMIZERS, batches, step, tiny_net

from regrow.integrations import log_metrics

Told = dict[tuple[str, int], float]


@pytest.fixture(autouse=True)
def their_own_warnings() -> Iterator[None]:
    """What other packages warn of is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def need(name: str) -> Any:
    """A package, or a skipped test."""
    return pytest.importorskip(name, reason=f"{name} is not installed")


def train(target: Any) -> Told:
    """A short training into a logger; returns (name, step) -> number as they were told."""
    net = tiny_net()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    updater = METHODS["set"](net, optimizer, seed=5)
    told: Told = {}
    updater.on_metrics(log_metrics(target), every=3, per_layer=True)
    updater.on_metrics(
        lambda at, metrics: told.update({(name, at): value for name, value in metrics.items()}),
        every=3,
        per_layer=True,
    )
    for batch in batches(9):
        step(net, optimizer, batch)
    assert {at for _, at in told} == {3, 6, 9}
    assert ("regrow/layer/conv.weight/churn", 6) in told
    assert ("regrow/churn", 3) not in told, "before the first rewiring"
    return told


@pytest.mark.parametrize("package", ["torch.utils.tensorboard", "tensorboardX"])
def test_tensorboard(package: str, tmp_path: Path) -> None:
    need("tensorboard")
    need(package)
    with importlib.import_module(package).SummaryWriter(str(tmp_path)) as writer:
        told = train(writer)
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(tmp_path))
    events.Reload()
    found = {
        (name, event.step): event.value
        for name in events.Tags()["scalars"]
        for event in events.Scalars(name)
    }
    # It keeps single precision.
    assert found == {key: float(torch.tensor(value)) for key, value in told.items()}


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = need("mlflow")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    try:
        with mlflow.start_run() as run:
            told = train(mlflow)
        client = mlflow.MlflowClient()
        names = client.get_run(run.info.run_id).data.metrics
        found = {
            (name, metric.step): metric.value
            for name in names
            for metric in client.get_metric_history(run.info.run_id, name)
        }
    finally:
        mlflow.set_tracking_uri(before)
    assert found == told


@pytest.mark.parametrize("pass_module", [False, True])
def test_wandb(pass_module: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb = need("wandb")
    settings = wandb.Settings(
        mode="offline", silent=True, console="off", x_disable_stats=True, x_disable_meta=True
    )
    run = wandb.init(project="regrow", dir=str(tmp_path), settings=settings)
    try:
        told = train(wandb if pass_module else run)
    finally:
        run.finish()
        wandb.teardown()
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert set(history_of(path)) == set(told)
    for key, value in history_of(path).items():
        assert value == pytest.approx(told[key]), key


def history_of(path: Path) -> Told:
    """(name, step) -> number in a W&B transaction log: records of LevelDB's log format, each a
    message of W&B's own protocol."""
    messages = importlib.import_module("wandb.proto.wandb_internal_pb2")
    found: Told = {}
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:  # no header fits: the rest of the block is padding
            at += left
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = messages.Record.FromString(whole)
            whole = b""
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                if not name.startswith("_"):  # (its own: _step, _timestamp, _runtime)
                    found[name, record.history.step.num] = float(item.value_json)
    return found
