"""Whether a checkpoint fits the training that is to go on from it, asked before it changes any."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_LINE = ("epoch", "loss", "accuracy", "lr", "rewirings", "exploration")


def check_training(saved: object, *, epochs: int, n_steps: int) -> dict[str, Any]:
    """How far a training was.

    Args:
        saved: What was saved of it.
        epochs: Of the recipe.
        n_steps: Weight steps of all these epochs.

    Returns:
        The arguments of ``Training``.

    Raises:
        ValueError: They are of another type, or contradict each other.
    """
    if not isinstance(saved, Mapping) or set(saved) != {
        "epochs", "weight_steps", "seconds", "history",
    }:  # fmt: skip
        raise ValueError("it does not say how far the training was")
    done, steps, lines = saved["epochs"], saved["weight_steps"], saved["history"]
    if type(done) is not int or not 0 <= done <= epochs:
        raise ValueError(f"epochs must be an integer in [0, {epochs}]")
    if type(steps) is not int or steps * epochs != done * n_steps:
        raise ValueError(f"weight_steps must be those of {done} epochs")
    if not _is_number(saved["seconds"]) or saved["seconds"] < 0:
        raise ValueError("seconds must be a number of at least 0")
    if not isinstance(lines, list) or len(lines) != done or not all(map(_is_line, lines)):
        raise ValueError(f"history must be {done} rows of {', '.join(_LINE)}")
    return dict(saved)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _is_line(line: object) -> bool:
    return (
        isinstance(line, dict) and set(line) == set(_LINE) and all(map(_is_number, line.values()))
    )


def check_model(saved: object, model: nn.Module) -> None:
    """Raise ``ValueError`` where the model could not load all of a state."""
    own = model.state_dict()
    if not isinstance(saved, Mapping) or list(saved) != list(own):
        raise ValueError("it is of another model: its tensors have other names")
    for name, tensor in own.items():
        there = saved[name]
        if not isinstance(there, Tensor) or (there.shape, there.dtype) != (
            tensor.shape, tensor.dtype,
        ):  # fmt: skip
            raise ValueError(
                f"it is of another model: {name} is not {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}"
            )


def check_optimizer(saved: object, optimizer: torch.optim.Optimizer) -> None:
    """Raise ``ValueError`` where the optimizer could not go on from a state.

    Its settings must be those it was built with now, save the learning rate, which each step sets;
    they are compared as text, since 1 and True are equal.
    """
    if not isinstance(saved, Mapping) or set(saved) != {"state", "param_groups"}:
        raise ValueError("it holds no state of an optimizer")
    groups, own = saved["param_groups"], optimizer.state_dict()["param_groups"]
    if (
        not isinstance(groups, list)
        or len(groups) != len(own)
        or not all(map(_is_same_group, groups, own))
    ):
        raise ValueError("it is of another optimizer, or one with other settings")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = saved["state"]
    if not isinstance(state, Mapping) or not set(state) <= set(range(len(parameters))):
        raise ValueError("it has optimizer state of parameters that are not there")
    for index, entries in state.items():
        if not isinstance(entries, Mapping) or not all(
            _is_state(key, value, parameters[index]) for key, value in entries.items()
        ):
            raise ValueError(f"the optimizer state of parameter {index} does not have its shape")


def _is_same_group(there: object, own: Mapping[str, Any]) -> bool:
    """Whether a group has all settings of ours, with the same values but for the learning rate."""
    if not isinstance(there, Mapping) or not own.keys() <= there.keys():
        return False
    return all(map(_is_plain, there.values())) and all(
        repr(there[name]) == repr(own[name]) for name in own if name != "lr"
    )


def _is_plain(value: object) -> bool:
    flat = value if isinstance(value, list | tuple) else [value]
    return all(item is None or type(item) in (bool, int, float, str) for item in flat)


def _is_state(key: object, value: object, parameter: Tensor) -> bool:
    if not isinstance(value, Tensor):
        return value is None
    fits = value.shape == parameter.shape or (key == "step" and value.numel() == 1)
    return value.is_floating_point() and fits
