"""Under which name a constructor takes the width of its model."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

Width = Sequence[int] | int | float


@dataclass(frozen=True)
class WidthArgument:
    """The argument of a function that sets the width of the model it makes.

    Args:
        name: Its name.
        default: Its default; what may be searched follows from it.
        finer: Further arguments without which widths would be rounded too coarsely.
    """

    name: str
    default: Any
    finer: Mapping[str, object]

    def arguments(self, width: object) -> dict[str, object]:
        """What to call the function with."""
        return {self.name: width, **self.finer}


# What others call the width, with its usual value as a float: all cut channels to whole numbers.
# torchvision's MobileNets have width_mult; V2 rounds to multiples of 8 unless told otherwise, which
# would leave steps of up to 8 % between the models. width_per_group is the inner width of the
# bottlenecks of its ResNets, base_width that of timm's.
_ALIASES: Final = (
    WidthArgument("width_mult", 1.0, {"round_nearest": 1}),
    WidthArgument("width_mult", 1.0, {}),
    WidthArgument("width_per_group", 64.0, {}),
    WidthArgument("base_width", 64.0, {}),
)
WIDTH_NAMES: Final = ("width", *dict.fromkeys(alias.name for alias in _ALIASES))


def width_argument(
    function: Callable[..., nn.Module], make: Callable[..., nn.Module]
) -> WidthArgument | None:
    """Find the argument that sets the width, the first of ``WIDTH_NAMES``.

    A function that takes any keyword may hand them to something that takes a width. So it is tried:
    the model must not change at the usual value and must change beside it. Models are built on the
    meta device, where they cost no memory.

    Args:
        function: What was named; its signature is read.
        make: The same as ``make(n_classes, **arguments)``.

    Returns:
        The argument, or None where there is none.
    """
    parameters = inspect.signature(function).parameters
    if "width" in parameters:
        return WidthArgument("width", parameters["width"].default, {})
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for alias in _ALIASES:
        unknown = {alias.name, *alias.finer} - parameters.keys()
        if not unknown:
            return WidthArgument(alias.name, parameters[alias.name].default, alias.finer)
        if takes_any and _sets_the_width(alias, make):
            return alias
    return None


def _sets_the_width(alias: WidthArgument, make: Callable[..., nn.Module]) -> bool:
    narrower = _count(make, alias.arguments(alias.default / 2))
    if narrower is None:
        return False
    return _count(make, {}) == _count(make, alias.arguments(alias.default)) != narrower


def _count(make: Callable[..., nn.Module], arguments: Mapping[str, object]) -> int | None:
    """Parameters of a model; None where it cannot be built like this."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        try:
            return sum(parameter.numel() for parameter in make(10, **arguments).parameters())
        except Exception:  # noqa: BLE001  # whatever others raise, there is no such width
            return None


def with_width(signature: inspect.Signature, default: object) -> inspect.Signature:
    """A signature with one more argument, the keyword ``width``."""
    width = inspect.Parameter("width", inspect.Parameter.KEYWORD_ONLY, default=default)
    parameters = list(signature.parameters.values())
    n_before = sum(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters)
    return signature.replace(parameters=[*parameters[:n_before], width, *parameters[n_before:]])
