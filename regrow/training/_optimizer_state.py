"""Optimizer state of weights that do not exist: what a fresh optimizer would hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from regrow.errors import SparsityError

# A fresh optimizer holds zeros in every tensor of the weight's shape, save in these. A test builds
# every optimizer of torch.optim and compares, so that a new exception cannot slip in.
_FRESH_VALUE = {
    (torch.optim.Rprop, "step_size"): "lr",
    (torch.optim.Adagrad, "sum"): "initial_accumulator_value",
}

_REFUSED = {
    torch.optim.LBFGS: "its state is one flat history of all weights, which cannot follow single "
    "connections",
    torch.optim.SparseAdam: "it takes sparse gradients only, and these are dense",
    torch.optim.Adafactor: "its state is factored into rows and columns, so a connection has none "
    "of its own",
}


def check_optimizer(optimizer: object) -> None:
    """Refuse what cannot work.

    Raises:
        TypeError: Not a ``torch.optim.Optimizer``.
        ValueError: An optimizer whose state does not follow the weight by shape.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            "optimizer must be a torch.optim.Optimizer or a sequence of them, "
            f"got {type(optimizer).__name__}"
        )
    for refused, reason in _REFUSED.items():
        if isinstance(optimizer, refused):
            raise ValueError(  # noqa: TRY004 - the right kind of thing, but one that cannot work
                f"{type(optimizer).__name__} cannot train sparse weights: {reason}; "
                "use SGD, AdamW, RMSprop or another whose state has the weight's shape (Muon, too, "
                "where layers are masked, but not for truly sparse ones)"
            )


def check_compact(optimizer: Optimizer, name: str) -> None:
    """Refuse optimizers that cannot step the values of a truly sparse layer.

    Raises:
        SparsityError: Names the layer and the reason.
    """
    if isinstance(optimizer, torch.optim.Muon):
        raise SparsityError(
            f"Muon cannot train the truly sparse layer of {name!r}: it orthogonalises matrices, "
            "and values are a list of connections; give these parameters to AdamW or SGD, or keep "
            "the layer masked"
        )


def group_of_parameter(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, object] | None:
    """The parameter group that holds ``parameter``, or None."""
    for group in optimizer.param_groups:
        if any(member is parameter for member in group["params"]):
            return group
    return None


def _state_tensors(optimizer: Optimizer, parameter: nn.Parameter) -> Iterator[tuple[str, Tensor]]:
    for key, value in optimizer.state.get(parameter, {}).items():
        if torch.is_tensor(value) and value.shape == parameter.shape:
            yield key, value


def fresh_value(optimizer: Optimizer, parameter: nn.Parameter, key: str) -> float:
    """What a fresh optimizer holds in the state ``key`` of a weight that never had a gradient."""
    for (kind, name), option in _FRESH_VALUE.items():
        if name == key and isinstance(optimizer, kind):
            group = group_of_parameter(optimizer, parameter) or optimizer.defaults
            return float(group[option])  # type: ignore[arg-type]
    return 0.0


@torch.no_grad()
def reset_state(
    optimizer: Optimizer, parameter: nn.Parameter, fill: Callable[[Tensor, float], object]
) -> None:
    """Make state tensors of the parameter's shape fresh in some places.

    Args:
        optimizer: The optimizer that steps the parameter.
        parameter: The weight.
        fill: Writes a value into those places of a tensor, in place.
    """
    for key, value in _state_tensors(optimizer, parameter):
        fill(value, fresh_value(optimizer, parameter, key))


@torch.no_grad()
def move_state(
    optimizer: Optimizer, parameter: nn.Parameter, move: Callable[[Tensor, float], Tensor]
) -> None:
    """Put state tensors of the parameter's shape in another order, or to another size.

    Args:
        optimizer: The optimizer that steps the parameter.
        parameter: The values of a truly sparse layer, not yet moved.
        move: (tensor, value of what is new) -> the tensor moved, itself or another.
    """
    for key, value in list(_state_tensors(optimizer, parameter)):
        fresh = fresh_value(optimizer, parameter, key)
        optimizer.state[parameter][key] = move(value, fresh)


def check_state_shapes(optimizer: Optimizer, parameter: nn.Parameter, name: str) -> None:
    """Refuse state that can be neither the weight's nor a plain number.

    Raises:
        ValueError: A state tensor has some other shape with more than one element.
    """
    for key, value in optimizer.state.get(parameter, {}).items():
        if torch.is_tensor(value) and value.numel() > 1 and value.shape != parameter.shape:
            raise ValueError(
                f"{type(optimizer).__name__} keeps state {key!r} of shape {tuple(value.shape)} for "
                f"the weight {name!r} of shape {tuple(parameter.shape)}: it cannot follow single "
                "connections; use an optimizer whose state has the weight's shape"
            )
