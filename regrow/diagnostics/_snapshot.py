"""Snapshot: values of tensors, modules and optimizers, written back in place, bit for bit."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from regrow._resize import resize

_Restore = Callable[[], Any]
"""Puts the value back, and returns the object that held it; may be called several times."""


@runtime_checkable
class Stateful(Protocol):
    """Anything that can be put back through its own state."""

    def state_dict(self) -> Any:  # noqa: ANN401 - schedulers, scalers, updaters: each its own
        """The state."""

    def load_state_dict(self, state: Any) -> Any:  # noqa: ANN401
        """Take the state back."""


@final
class Snapshot:
    """Keeps copies, and writes them back into the very objects they came from.

    Objects keep their identity, since hooks, optimizers and graphs of the device hold on to them.

    Args:
        grads: Whether the ``.grad`` of a parameter belongs to its value.
    """

    def __init__(self, *, grads: bool = True) -> None:
        self._grads = grads
        self._memo: dict[int, tuple[object, _Restore]] = {}
        self._loads: list[_Restore] = []
        self._writes: list[_Restore] = []

    def restore(self) -> None:
        """Put everything back; what loads a state comes first, exact values have the last word."""
        for load in self._loads:
            load()
        for write in self._writes:
            write()

    def add(self, thing: object) -> None:
        """Keep a module, an optimizer, a scaler, or whatever has a state."""
        if isinstance(thing, nn.Module):
            self._add_module(thing)
        elif isinstance(thing, Optimizer):
            self._add_optimizer(thing)
        elif isinstance(thing, torch.amp.GradScaler):
            self._writes.append(self._keep(vars(thing)))
        elif isinstance(thing, Stateful):
            owner, state = thing, copy.deepcopy(thing.state_dict())
            self._loads.append(lambda: owner.load_state_dict(copy.deepcopy(state)))

    def add_tensor(self, tensor: Tensor) -> None:
        """Keep a tensor."""
        self._writes.append(self._keep(tensor))

    def add_random_state(self) -> None:
        """Keep the global generators: torch (and its CUDA ones, where in use), numpy, random."""
        cpu, python = torch.get_rng_state(), random.getstate()
        legacy = np.random.get_state()  # noqa: NPY002 - the user's, to be left as it was
        in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        cuda = torch.cuda.get_rng_state_all() if in_use else None

        def restore() -> None:
            torch.set_rng_state(cpu)
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
            if cuda is not None:
                torch.cuda.set_rng_state_all(cuda)

        self._writes.append(restore)

    def _add_module(self, model: nn.Module) -> None:
        for module in model.modules():
            self._writes.append(_shape_of(module))
            self._writes.append(self._keep(module._parameters))
            self._writes.append(self._keep(module._buffers))
            if type(module).get_extra_state is not nn.Module.get_extra_state:
                self._loads.append(_extra_state(module))

    def _add_optimizer(self, optimizer: Optimizer) -> None:
        self._writes.append(self._keep(optimizer.state))
        self._writes.append(self._keep(optimizer.param_groups))  # the parameters with them
        attributes, kept = vars(optimizer), dict(vars(optimizer))

        def restore() -> None:
            for name in attributes.keys() - kept.keys():
                del attributes[name]
            attributes.update(kept)

        self._writes.append(restore)

    def _keep(self, value: Any) -> _Restore:  # noqa: ANN401
        known = self._memo.get(id(value))
        if known is not None:
            return known[1]
        if isinstance(value, Tensor):
            restore = self._keep_tensor(value)
        elif isinstance(value, dict):
            restore = self._keep_dict(value)
        elif isinstance(value, list):
            restore = self._keep_list(value)
        else:
            kept = copy.deepcopy(value)
            restore = lambda: copy.deepcopy(kept)  # noqa: E731
        self._memo[id(value)] = (value, restore)
        return restore

    def _keep_dict(self, held: dict[Any, Any]) -> _Restore:
        items = {key: self._keep(value) for key, value in held.items()}

        def restore() -> object:
            values = {key: item() for key, item in items.items()}
            held.clear()
            held.update(values)
            return held

        return restore

    def _keep_list(self, held: list[Any]) -> _Restore:
        items = [self._keep(value) for value in held]

        def restore() -> object:
            held[:] = [item() for item in items]
            return held

        return restore

    def _keep_tensor(self, tensor: Tensor) -> _Restore:
        values, needs_grad = tensor.detach().clone(), tensor.requires_grad
        has_grad = self._grads and tensor.is_leaf and tensor.requires_grad
        grad = None if not has_grad or tensor.grad is None else self._keep(tensor.grad)

        def restore() -> Tensor:
            _write(tensor, values)
            if tensor.is_leaf and tensor.requires_grad != needs_grad:
                tensor.requires_grad_(needs_grad)
            if has_grad:
                tensor.grad = None if grad is None else grad()
            return tensor

        return restore


@torch.no_grad()
def _write(tensor: Tensor, values: Tensor) -> None:
    like = (tensor.shape, tensor.dtype, tensor.device) == (
        values.shape,
        values.dtype,
        values.device,
    )
    if not like and isinstance(tensor, nn.Parameter):
        resize(tensor, values.clone())
    elif not like:
        tensor.data = values.clone()
    elif any(
        n > 1 and stride == 0 for n, stride in zip(tensor.shape, tensor.stride(), strict=True)
    ):
        # An expanded buffer shares its storage with itself and refuses to be written to.
        if not torch.equal(tensor, values):
            tensor.data = values.clone()
    else:
        tensor.detach().copy_(values)


def _shape_of(module: nn.Module) -> _Restore:
    """Which children the module has, and its mode."""
    training, children = module.training, dict(module._modules)

    def restore() -> None:
        module.training = training
        if module._modules != children:
            module._modules.clear()
            module._modules.update(children)

    return restore


def _extra_state(module: nn.Module) -> _Restore:
    state = copy.deepcopy(module.get_extra_state())
    return lambda: module.set_extra_state(copy.deepcopy(state))


def has_state(thing: object) -> bool:
    """Whether ``thing`` has both ``state_dict`` and ``load_state_dict``."""
    return isinstance(thing, Stateful) and not isinstance(thing, type | Mapping)
