"""ModuleWatch: layers that run inside the model without being registered in it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, final

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from regrow._names import unwrap


@final
class ModuleWatch:
    """Hooks on all modules of the process, while the model's own forward is under way.

    Args:
        model: The module passed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.hidden: dict[int, nn.Module] = {}
        self._model = model
        self._entries = {id(model), id(unwrap(model))}
        self._modules = {id(module) for module in model.modules()}
        self._parameters = {id(parameter) for parameter in model.parameters()}
        self._depth = 0

    @property
    def n_parameters(self) -> int:
        """Tensors that train and that ``model.parameters()`` does not have."""
        found = (p for module in self.hidden.values() for p in module.parameters(recurse=False))
        return len({id(p) for p in found if p.requires_grad and id(p) not in self._parameters})

    @property
    def where(self) -> str:
        """The line that registers them, as far as the attribute that holds them is found."""
        for path, module in self._model.named_modules():
            for key, value in vars(module).items():
                owner = f"{path}.{key}" if path else key
                if isinstance(value, list | tuple) and self._is_among(*value):
                    many = len(value) > 1
                    right = f"torch.nn.ModuleList(self.{key})" if many else f"self.{key}[0]"
                    return f"self.{key} = {right}  # in {type(module).__name__}: {owner!r}"
                if isinstance(value, dict) and self._is_among(*value.values()):
                    right = f"torch.nn.ModuleDict(self.{key})"
                    return f"self.{key} = {right}  # in {type(module).__name__}: {owner!r}"
        return "self.layers = torch.nn.ModuleList(layers)  # in the model's __init__"

    def attach(self, stack: ExitStack) -> None:
        """Watch until the stack unwinds; a compiled model is left alone, or it would recompile."""
        if any("_orig_mod" in module._modules for module in self._model.modules()):
            return
        stack.callback(register_module_forward_pre_hook(self._enter).remove)
        stack.callback(register_module_forward_hook(self._leave, always_call=True).remove)

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        del inputs
        if id(module) in self._entries:
            self._depth += 1
        elif self._depth and id(module) not in self._modules and torch.is_grad_enabled():
            own = module.parameters(recurse=False)
            if any(p.requires_grad and id(p) not in self._parameters for p in own):
                self.hidden[id(module)] = module

    def _leave(self, module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        del inputs, output
        if id(module) in self._entries:
            self._depth -= 1

    def _is_among(self, *values: object) -> bool:
        return any(
            isinstance(value, nn.Module) and any(id(m) in self.hidden for m in value.modules())
            for value in values
        )
