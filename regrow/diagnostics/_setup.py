"""Setup: whose parameters the model, the optimizers and the updater really hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from torch.optim import Optimizer

from regrow._names import Owned, owned_parameters
from regrow.diagnostics._snapshot import has_state
from regrow.training import TopologyUpdater


@final
@dataclass(frozen=True, eq=False)
class Setup:
    """What was passed, matched by name and by identity.

    Args:
        model: The module passed.
        optimizers: The optimizers passed, in order.
        updater: The updater passed.
        owned: Every parameter of the model, with all its places.
        named: Name of a topology -> the model's parameter of that name, where there is one.
        driven: Name of a topology -> the parameter that the updater keeps sparse, where it is in
            the model or in an optimizer.
    """

    model: nn.Module
    optimizers: tuple[Optimizer, ...]
    updater: TopologyUpdater
    owned: tuple[Owned, ...]
    named: dict[str, nn.Parameter]
    driven: dict[str, Tensor]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The parameter to watch for each topology: the model's, else the updater's."""
        return {
            name: self.named.get(name, self.driven.get(name))  # type: ignore[misc]
            for name in self.updater.topologies
            if name in self.named or name in self.driven
        }

    def in_model(self, parameter: Tensor) -> bool:
        """Whether the model holds this very parameter."""
        return any(one.parameter is parameter for one in self.owned)

    def places(self, parameter: Tensor) -> tuple[str, ...]:
        """Names of all places where the model holds this parameter."""
        return tuple(
            n for one in self.owned if one.parameter is parameter for n, _, _ in one.owners
        )

    def is_heard(self, optimizer: Optimizer) -> bool:
        """Whether the updater watches the steps of this optimizer."""
        return any(one is optimizer for one in self.updater.optimizers)


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """All parameters of an optimizer."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def holds(optimizer: Optimizer, parameter: Tensor) -> bool:
    """Whether the optimizer steps this very parameter."""
    return any(member is parameter for member in parameters_of(optimizer))


def check_arguments(
    model: object,
    optimizer: object,
    updater: object,
    step: object,
    also: object,
) -> tuple[Optimizer, ...]:
    """Refuse what cannot be examined, before anything runs.

    Returns:
        The optimizers.

    Raises:
        TypeError: Names the argument and what would work.
        ValueError: A parameter is sharded, or there is no optimizer.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    optimizers = tuple(optimizer) if isinstance(optimizer, list | tuple) else (optimizer,)
    if not optimizers:
        raise ValueError("optimizer must be an optimizer or several, got an empty sequence")
    for one in optimizers:
        if not isinstance(one, Optimizer):
            raise TypeError(
                "optimizer must be a torch.optim.Optimizer or a sequence of them, "
                f"got {type(one).__name__}"
            )
    if not isinstance(updater, TopologyUpdater):
        raise TypeError(
            "updater must be what regrow.rigl, regrow.static or another method returned, "
            f"got {type(updater).__name__}"
        )
    if not callable(step):
        raise TypeError(
            f"step must be a function of no arguments that makes one training step, got {step!r}"
        )
    if not isinstance(also, list | tuple):
        raise TypeError(f"also must be a tuple of objects with a state, got {type(also).__name__}")
    for index, thing in enumerate(also):
        if not has_state(thing):
            raise TypeError(
                f"also[{index}] must have state_dict() and load_state_dict(), "
                f"and a {type(thing).__name__} has not"
            )
    for owned in owned_parameters(model):
        if type(owned.parameter.data) is not Tensor:
            raise ValueError(
                f"model has a sharded or wrapped parameter, {owned.name!r} "
                f"({type(owned.parameter.data).__name__}): examine the same set-up without sharding"
            )
    return optimizers


def examine(model: nn.Module, optimizers: tuple[Optimizer, ...], updater: TopologyUpdater) -> Setup:
    """Match topologies with parameters.

    Raises:
        ValueError: The updater belongs to another model.
    """
    owned = tuple(owned_parameters(model))
    by_place = {name: one.parameter for one in owned for name, _, _ in one.owners}
    shapes = {name: topology.shape for name, topology in updater.topologies.items()}
    named = {
        name: by_place[name]
        for name, shape in shapes.items()
        if name in by_place and tuple(by_place[name].shape) == tuple(shape)
    }
    known = {id(one.parameter) for one in owned}
    known |= {id(parameter) for o in optimizers for parameter in parameters_of(o)}
    driven = {name: p for name, p in updater.parameters.items() if id(p) in known}
    missing = [name for name in shapes if name not in named and name not in driven]
    if missing and not driven:
        raise ValueError(
            f"updater is of another model: it keeps {missing[0]!r} of shape "
            f"{tuple(shapes[missing[0]])} sparse, and neither model nor optimizer has that; pass "
            "the updater that was made with this model"
        )
    return Setup(model, optimizers, updater, owned, named, dict(driven))
