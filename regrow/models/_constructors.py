"""Models by name: ours, or anybody's as ``package.module:function``."""

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from regrow.models._mlp import mlp
from regrow.models._resnet import resnet18, resnet34
from regrow.models._small_cnn import small_cnn
from regrow.models._vgg import vgg16_bn
from regrow.models._width import Width, width_argument, with_width

Constructor = Callable[..., nn.Module]

_OURS: dict[str, Constructor] = {
    "small-cnn": small_cnn,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "vgg16_bn": vgg16_bn,
    "mlp": mlp,
}
NAMES = tuple(_OURS)
"""Models that regrow brings itself."""

_EXPECTED = (
    "expected is a function, or a class, that makes a model from the number of classes alone: "
    "its argument n_classes or num_classes, or else its only argument without a default; "
    "width= is optional"
)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def constructor(name: str) -> Constructor:
    """Find what makes a model.

    Args:
        name: One of :data:`NAMES`, or ``"package.module:function"`` for a function, or a class,
            of any importable module. It is given the number of classes as ``n_classes`` or
            ``num_classes``, whichever it names; as ``num_classes`` if it names neither but takes
            any keyword; otherwise as its only argument without a default.

    Returns:
        A callable ``(n_classes, *, width=...)``; ``width`` only where the function takes one, as
        ours all do. It is passed on as ``width_mult`` (torchvision's MobileNets; of V2 without
        rounding to multiples of 8), ``width_per_group`` (the inner width of bottlenecks, in its
        ResNets) or ``base_width`` (the same in timm's) where the function takes that instead. One
        that takes any keyword is tried with these on the meta device. The callable's
        ``inspect.signature`` is that of the function, and ``width``.

    Raises:
        TypeError: ``name`` is no text, or what it names cannot be called. Also raised by the
            callable where the function returns anything but a ``torch.nn.Module``.
        ValueError: An unknown name, a module that cannot be imported, no such function in it, or
            one that cannot be called with the number of classes alone.

    Example:
        >>> constructor("small-cnn")(10, width=(4, 8, 16)).classifier
        Linear(in_features=16, out_features=10, bias=True)
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a text, got {name!r}")
    if name in _OURS:
        return _OURS[name]
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise ValueError(
            f"the model must be one of {', '.join(NAMES)}, or package.module:function; got {name!r}"
        )
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, TypeError) as error:
        raise ValueError(
            f"model {name!r}: the module {module_name!r} cannot be imported ({error}); install "
            "it, or put its folder on PYTHONPATH"
        ) from error
    function = getattr(module, function_name, None)
    if function is None:
        raise ValueError(f"model {name!r}: {module_name} has no {function_name!r}; {_EXPECTED}")
    if isinstance(function, nn.Module):
        raise TypeError(
            f"model {name!r} is a Module, a {type(function).__name__}, and is given no number of "
            "classes; give a function that makes one"
        )
    if not callable(function):
        raise TypeError(f"model {name!r} is a {type(function).__name__}; {_EXPECTED}")
    return _adapt(function, name)


def build(name: str, n_classes: int, *, width: Width | None = None) -> nn.Module:
    """Make a model; its initial values come from torch's global generator.

    Args:
        name: As for :func:`constructor`.
        n_classes: Number of classes, at least 2.
        width: Channels of each stage, or what else the function calls ``width``; None: its
            default.

    Returns:
        The model, in training mode, on torch's default device.

    Raises:
        TypeError: As for :func:`constructor` and the function itself.
        ValueError: The same, or a width for a function that takes none.

    Example:
        >>> sum(p.numel() for p in build("small-cnn", 10).parameters())
        242474
    """
    make = constructor(name)
    if width is None:
        return make(n_classes)
    if "width" not in inspect.signature(make).parameters:
        raise ValueError(f"model {name!r} takes no width, got width={width!r}; leave it out")
    return make(n_classes, width=width)


def _adapt(function: Constructor, name: str) -> Constructor:
    """Give a function the signature ``(n_classes, **its own)``, and ``width`` if it has one."""
    argument, positional = _class_argument(function, name)

    def make(n_classes: int, **arguments: Any) -> nn.Module:  # noqa: ANN401  # the function's own
        if positional:
            model = function(n_classes, **arguments)
        else:
            model = function(**{argument: n_classes}, **arguments)
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model {name!r} returned a {type(model).__name__}, not a torch.nn.Module"
            )
        return model

    found = width_argument(function, make)

    def adapted(n_classes: int, **arguments: Any) -> nn.Module:  # noqa: ANN401
        if found is not None and "width" in arguments:
            arguments |= found.arguments(arguments.pop("width"))
        return make(n_classes, **arguments)

    # Not functools.wraps as it stands: of a class that would copy every attribute.
    adapted = functools.update_wrapper(adapted, function, updated=())
    if found is not None and found.name != "width":
        signature = with_width(inspect.signature(function), found.default)
        adapted.__signature__ = signature  # type: ignore[attr-defined]
    return adapted


def _class_argument(function: Constructor, name: str) -> tuple[str, bool]:
    """The argument that takes the number of classes, and whether it goes by position only."""
    try:
        parameters = inspect.signature(function).parameters
    except (ValueError, TypeError) as error:
        raise ValueError(f"model {name!r} has no readable signature; {_EXPECTED}") from error
    required = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty and parameter.kind not in _VARIADIC
    ]
    known = [known for known in ("n_classes", "num_classes") if known in parameters]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if known:
        argument = known[0]
    elif len(required) == 1:
        argument = required[0]
    elif takes_any and not required:
        return "num_classes", False
    else:
        raise ValueError(f"model {name!r} has the arguments {list(parameters)}; {_EXPECTED}")
    others = [other for other in required if other != argument]
    if others:
        raise ValueError(
            f"model {name!r} also needs {', '.join(others)}, which have no default; {_EXPECTED}"
        )
    return argument, parameters[argument].kind is inspect.Parameter.POSITIONAL_ONLY
