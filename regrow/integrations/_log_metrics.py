"""log_metrics: the numbers of an updater, into the logger that is there already."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from regrow.training import MetricsCallback

_WORKS = (
    "a TensorBoard SummaryWriter (add_scalar), a W&B run (log with step=), mlflow or a Lightning "
    "logger (log_metrics with step=), or a function of (step, metrics)"
)


def log_metrics(target: Any) -> MetricsCallback:  # noqa: ANN401 - whatever logger there is
    """A callback for ``updater.on_metrics`` that writes to a logger.

    The logger is known by what it can do, not by its type: nothing of it is imported.

    - ``add_scalar(name, value, step)``: a ``SummaryWriter`` of ``torch.utils.tensorboard`` or
      tensorboardX;
    - ``log_metrics(metrics, step=step)``: the module ``mlflow``, with a run that is active; a
      logger of Lightning, an experiment of Comet;
    - ``log(metrics, step=step)``: a run of W&B, or the module ``wandb`` behind ``wandb.init()``;
    - a plain function of (step, metrics).

    Args:
        target: The logger.

    Returns:
        A function of (step, metrics).

    Raises:
        TypeError: ``target`` is none of these; the message lists what works.

    Example:
        >>> import torch, regrow
        >>> net = torch.nn.Linear(8, 8)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> updater = regrow.set_training(net, optimizer, sparsity=0.5, n_steps=8, interval=2)
        >>> seen = []
        >>> updater.on_metrics(log_metrics(lambda step, metrics: seen.append(step)))
        >>> for _ in range(4):
        ...     net(torch.ones(1, 8)).sum().backward()
        ...     _ = optimizer.step()
        >>> seen
        [2, 4]
    """
    if inspect.isclass(target):
        raise TypeError(f"target must be an instance, got the class {target.__name__}: {_WORKS}")
    # (Looked up at each call: wandb.init() replaces the module's own functions.)
    if callable(getattr(target, "add_scalar", None)):
        return lambda step, metrics: _write_scalars(target, step, metrics)
    if _takes_step(getattr(target, "log_metrics", None)):
        return lambda step, metrics: target.log_metrics(dict(metrics), step=step)
    if _takes_step(getattr(target, "log", None)):
        return lambda step, metrics: target.log(dict(metrics), step=step)
    if _takes_two(target):
        return target  # type: ignore[no-any-return]
    raise TypeError(f"target must be {_WORKS}; got {_describe(target)}")


def _write_scalars(writer: Any, step: int, metrics: Mapping[str, float]) -> None:  # noqa: ANN401
    for name, value in metrics.items():
        writer.add_scalar(name, value, step)


def _takes_step(function: object) -> bool:
    """Whether it may be called with metrics and ``step=``; a ``logging.Logger``'s log may not."""
    return callable(function) and "step" in _parameters(function)


def _takes_two(function: object) -> bool:
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(0, {})
    except (TypeError, ValueError):
        return False
    return True


def _parameters(function: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin that does not tell
        return {}


def _describe(target: object) -> str:
    name = getattr(target, "__name__", None)
    return type(target).__name__ if name is None else f"{type(target).__name__} {name!r}"
