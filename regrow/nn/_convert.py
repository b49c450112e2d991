"""Dense layers to truly sparse ones, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from regrow.errors import SparsityError
from regrow.nn._conv import SparseConv1d, SparseConv2d, SparseConv3d
from regrow.nn._linear import SparseLinear
from regrow.nn._sparse_module import SparseModule
from regrow.topology import Topology

_CONVS: dict[type[nn.Module], type[SparseModule]] = {
    nn.Conv1d: SparseConv1d,
    nn.Conv2d: SparseConv2d,
    nn.Conv3d: SparseConv3d,
}
_DENSE: dict[type[SparseModule], type[nn.Module]] = {b: a for a, b in _CONVS.items()}


def has_sparse_form(module: nn.Module) -> bool:
    """Whether there is a truly sparse layer for a module; subclasses may do other things."""
    return type(module) is nn.Linear or type(module) in _CONVS


def sparse_form(module: nn.Module, topology: Topology, *, backend: str = "auto") -> SparseModule:
    """The truly sparse layer that computes what a dense one does under a topology.

    Values, bias, dtype, device, mode and ``requires_grad`` are those of the dense layer; it is not
    changed, and shares its bias with the result.

    Args:
        module: A ``Linear`` or ``Conv1d/2d/3d``.
        topology: Of its weight.
        backend: "auto", or the name of one.

    Raises:
        TypeError: There is no such layer for the module.
        SparsityError: The topology is of another shape.

    Example:
        >>> linear = nn.Linear(4, 2)
        >>> sparse = sparse_form(linear, Topology(torch.tensor([0, 5]), (2, 4)))
        >>> bool((sparse.values[1] == linear.weight[1, 1]).all())
        True
    """
    if not has_sparse_form(module):
        raise TypeError(
            f"there is no truly sparse {type(module).__name__}: Linear, Conv1d, Conv2d and Conv3d "
            "have such a form, their subclasses not"
        )
    weight: nn.Parameter = module.weight  # type: ignore[assignment]
    if topology.shape != tuple(weight.shape):
        raise SparsityError(
            f"the topology has shape {topology.shape}, the weight {tuple(weight.shape)}"
        )
    made = _empty_form(module, topology.compact().to(weight.device), backend)
    with torch.no_grad():
        flat = weight.detach().reshape(-1)
        made.values = nn.Parameter(flat[made.topology.indices], weight.requires_grad)
    made.bias = module.bias  # type: ignore[assignment]
    made.train(module.training)
    return made


def _empty_form(module: nn.Module, topology: Topology, backend: str) -> SparseModule:
    kind: dict[str, Any] = {
        "bias": False,
        "sparsity": None,
        "topology": topology,
        "backend": backend,
        "dtype": module.weight.dtype,
    }
    if isinstance(module, nn.Linear):
        return SparseLinear(module.in_features, module.out_features, **kind)
    make: Callable[..., SparseModule] = _CONVS[type(module)]
    return make(*_conv_arguments(module), padding_mode=module.padding_mode, **kind)


def _conv_arguments(conv: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return (
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
    )


def dense_form(module: SparseModule) -> nn.Module:
    """The dense layer that computes what a truly sparse one does; its zeros train like the rest.

    Args:
        module: A ``SparseLinear`` or ``SparseConv1d/2d/3d``; shares its bias with the result.
    """
    values = module.values
    kind: dict[str, Any] = {"bias": False, "device": "meta", "dtype": values.dtype}
    made: nn.Module
    if isinstance(module, SparseLinear):
        made = nn.Linear(module.in_features, module.out_features, **kind)
    else:
        make: Callable[..., nn.Module] = _DENSE[type(module)]
        made = make(*_conv_arguments(module), padding_mode=module.padding_mode, **kind)
    made.weight = nn.Parameter(module.dense_weight(), values.requires_grad)
    made.bias = module.bias
    return made.train(module.training)


def densify_(model: nn.Module) -> nn.Module:
    """Put dense layers in the place of all truly sparse ones, in place.

    Parameters are replaced: build optimizers afterwards.

    Args:
        model: Any module.

    Returns:
        ``model``; or, where it is itself truly sparse, its dense form.

    Example:
        >>> net = nn.Sequential(SparseLinear(8, 4, sparsity=0.5))
        >>> densify_(net)[0]
        Linear(in_features=8, out_features=4, bias=True)
    """
    return replace_modules(
        model, lambda _, module: dense_form(module) if isinstance(module, SparseModule) else None
    )


def replace_modules(
    model: nn.Module, form: Callable[[str, nn.Module], nn.Module | None]
) -> nn.Module:
    """Put other modules in the place of some; one that is held in several places stays one.

    Args:
        model: Changed in place.
        form: (path, module) -> what to put there, or None to leave it.

    Returns:
        ``model``, or what is put in its own place.
    """
    made: dict[int, nn.Module] = {}
    modules = list(model.modules())
    for path, module in list(model.named_modules()):
        other = form(path, module)
        if other is not None:
            made[id(module)] = other
    for module in modules:
        for name, child in list(module._modules.items()):
            if child is not None and id(child) in made:
                module._modules[name] = made[id(child)]
        if isinstance(module, nn.TransformerEncoderLayer) and _has_sparse(module):
            # torch's fused inference path would read the dense weights of its linear layers.
            module.activation_relu_or_gelu = 0
    for old, new in ((old, made.get(id(old))) for old in modules):
        if new is not None:
            _move_hooks(old, new)
    return made.get(id(model), model)


def _has_sparse(layer: nn.Module) -> bool:
    return any(isinstance(child, SparseModule) for child in layer.children())


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def _move_hooks(old: nn.Module, new: nn.Module) -> None:
    """The very dictionaries, so that handles still remove what they put there."""
    for name in _HOOKS:
        new.__dict__[name] = old.__dict__[name]
    new._is_full_backward_hook = old._is_full_backward_hook
