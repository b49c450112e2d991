"""Parameters by name: wrappers' prefixes removed, tied ones listed once with all their places."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from regrow.typing import Shape

_WRAPPERS = (DistributedDataParallel, DataParallel, AveragedModel)


@final
@dataclass(frozen=True, eq=False)
class Owned:
    """A parameter, and every place where the model holds it.

    Args:
        name: First canonical name: as in ``named_parameters()``, wrappers' prefixes removed.
        parameter: The tensor.
        owners: (canonical name, module, attribute) of each place; more than one where tied. The
            ``values`` of a truly sparse layer go by the name of the weight they stand for.
        paths: (canonical name, path of the module below the unwrapped model, attribute) likewise.
    """

    name: str
    parameter: nn.Parameter
    owners: tuple[tuple[str, nn.Module, str], ...]
    paths: tuple[tuple[str, str, str], ...]

    @property
    def is_compact(self) -> bool:
        """Whether it holds the values of a truly sparse layer."""
        _, module, attribute = self.owners[0]
        return holds_values(module, attribute)

    @property
    def shape(self) -> Shape:
        """Of the parameter or, of a truly sparse layer, of the weight it stands for."""
        if self.is_compact:
            return self.owners[0][1].weight_shape  # type: ignore[return-value]
        return tuple(self.parameter.shape)

    @property
    def n_elements(self) -> int:
        """Elements of that shape."""
        return math.prod(self.shape)


def canonical_name(name: str) -> str:
    """A dotted name without the segments that ``torch.compile`` adds."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DDP, DataParallel, AveragedModel and ``torch.compile`` wrappers."""
    while True:
        if isinstance(model, _WRAPPERS):
            model = model.module
        elif isinstance(inner := model._modules.get("_orig_mod"), nn.Module):
            model = inner
        else:
            return model


def holds_values(module: nn.Module, attribute: str) -> bool:
    """Whether a parameter, by its owner and its name there, is a truly sparse layer's values."""
    return attribute == "values" and getattr(module, "holds_values", False) is True


def owned_parameters(model: nn.Module) -> list[Owned]:
    """Every parameter of a model once, in the order of ``named_parameters()``."""
    places: dict[int, list[tuple[str, str, nn.Module, str]]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for path, module in unwrap(model).named_modules():
        for attribute, parameter in module._parameters.items():
            if parameter is None:
                continue
            called = "weight" if holds_values(module, attribute) else attribute
            name = canonical_name(f"{path}.{called}" if path else called)
            places.setdefault(id(parameter), []).append((name, path, module, attribute))
            parameters[id(parameter)] = parameter
    return [
        Owned(
            held[0][0],
            parameters[key],
            tuple((name, module, attribute) for name, _, module, attribute in held),
            tuple((name, path, attribute) for name, path, _, attribute in held),
        )
        for key, held in places.items()
    ]
