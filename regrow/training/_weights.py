"""Which weights of a model shall be sparse, and why each other tensor stays dense."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from regrow._checks import check_is_structure
from regrow._names import Owned, holds_values, owned_parameters
from regrow._sharding import check_placements, is_sharded
from regrow.errors import SparsityError
from regrow.topology import Structure, Transposed, Unstructured
from regrow.typing import Shape

Select = Callable[[str, nn.Module, nn.Parameter], bool] | str | Sequence[str]
"""A predicate (name, owning module, parameter) -> bool, or globs over canonical names, which choose
among parameters of at least two dimensions; a whole name chooses that parameter, whatever it is."""

_BY_TYPE: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Linear, ("weight",)),
    (nn.Bilinear, ("weight",)),
    (_ConvNd, ("weight",)),
    (nn.MultiheadAttention, ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")),
    (nn.RNNBase, ("weight_*",)),
    (nn.RNNCellBase, ("weight_*",)),
)
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


def default_weights(name: str, module: nn.Module, parameter: nn.Parameter) -> bool:
    """Weights of Linear, Bilinear, convolutions, attention and recurrent layers.

    Chosen by the module's type and the parameter's role, not by name or shape: norms, biases,
    embeddings and free parameters stay dense. The values of a truly sparse layer are its weight.

    Args:
        name: Canonical name of the parameter.
        module: The module that owns it.
        parameter: The tensor; at least two dimensions.
    """
    attribute = name.rpartition(".")[2]
    if holds_values(module, "values") and attribute == "weight":
        return True
    return parameter.dim() >= 2 and any(
        isinstance(module, kind) and any(fnmatch.fnmatchcase(attribute, p) for p in patterns)
        for kind, patterns in _BY_TYPE
    )


def structure_of(module: nn.Module, structure: Structure) -> Structure:
    """A structure as it holds for the weight of a module: transposed where the module is.

    Args:
        module: The module that owns the weight.
        structure: As on a linear layer or a convolution, outputs first; one that is ``Transposed``
            already stays as it is.
    """
    if isinstance(structure, Unstructured | Transposed):
        return structure
    if isinstance(module, _ConvTransposeNd):
        return Transposed(structure, module.groups)
    return structure


@final
@dataclass(frozen=True)
class _Fitting:
    structure: Structure

    def __call__(self, name: str, module: nn.Module, parameter: nn.Parameter) -> bool:
        if not default_weights(name, module, parameter):
            return False
        shape = getattr(module, "weight_shape", tuple(parameter.shape))
        return fits(structure_of(module, self.structure), shape)


def fits(structure: Structure, shape: Shape) -> bool:
    """Whether weights of a shape can have a structure."""
    try:
        structure.check(shape)
    except SparsityError:
        return False
    return True


def fitting(structure: Structure) -> Select:
    """Of the weights chosen by default, those whose shape a structure divides; for ``select=``.

    Args:
        structure: Such as ``NM(2, 4)``, which a first convolution of three inputs cannot have.

    Raises:
        TypeError: ``structure`` is no structure.

    Example:
        >>> from regrow.topology import NM
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8))
        >>> [one.name for one in choose_weights(net, fitting(NM(2, 4)))]
        ['1.weight']
    """
    check_is_structure(structure)
    return _Fitting(structure)


def _as_predicate(select: Select, owned: Iterable[Owned]) -> Callable[..., bool]:
    if callable(select):
        _check_predicate(select)
        return select
    patterns = [select] if isinstance(select, str) else list(select)
    n_dims = {name: len(one.shape) for one in owned for name, _, _ in one.owners}
    for pattern in patterns:
        matched = fnmatch.filter(n_dims, pattern)
        if not matched:
            names = list(n_dims)
            raise SparsityError(
                f"select={pattern!r} matches no parameter; there are: {', '.join(names[:20])}"
                + (" ..." if len(names) > 20 else "")
            )
        if pattern not in matched and all(n_dims[name] < 2 for name in matched):
            raise SparsityError(
                f"select={pattern!r} matches only parameters of fewer than two dimensions, such as "
                f"{matched[0]!r}: globs leave norms and biases dense; to make one sparse, write "
                "its whole name"
            )
    # Of a block that a glob names, norms and biases are not meant.
    return lambda name, _module, _parameter: (
        name in patterns
        or (n_dims.get(name, 0) >= 2 and any(fnmatch.fnmatchcase(name, p) for p in patterns))
    )


def _check_predicate(select: Callable[..., bool]) -> None:
    try:
        inspect.signature(select).bind("name", None, None)
    except TypeError as error:
        raise TypeError(
            f"select must take (name, module, parameter) and say whether it is chosen: {error}"
        ) from error


def choose_weights(model: nn.Module, select: Select) -> list[Owned]:
    """The parameters that shall be sparse, in the order of the model.

    Args:
        model: Any module, wrapped or not.
        select: Predicate or globs.

    Raises:
        SparsityError: Nothing is selected, a glob matches nothing, or a selected parameter
            cannot be sparse.
        TypeError: ``model`` is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    owned = owned_parameters(model)
    predicate = _as_predicate(select, owned)
    for one in owned:
        if isinstance(one.parameter, nn.parameter.UninitializedParameter):
            raise SparsityError(f"{one.name!r} is not initialised: run the lazy model once first")
    chosen = []
    for one in owned:
        picked = any(predicate(name, module, one.parameter) for name, module, _ in one.owners)
        by_default = select is default_weights or isinstance(select, _Fitting)
        if picked and not (by_default and _is_embedding(one)):
            _check_eligible(one)
            chosen.append(one)
    if not chosen:
        raise SparsityError(
            "no weight is selected: the model has none of Linear, Bilinear, Conv, attention or "
            "recurrent layers; pass select= with globs or a predicate for others"
        )
    return chosen


def dense_reasons(model: nn.Module, sparse: Container[str]) -> dict[str, str]:
    """Name -> why it is dense, for each parameter that is not among the sparse ones."""
    owned = owned_parameters(model)
    return {one.name: _reason(one) for one in owned if one.name not in sparse}


def _is_embedding(one: Owned) -> bool:
    return any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for _, m, _ in one.owners)


def _check_eligible(one: Owned) -> None:
    parameter = one.parameter
    if not parameter.requires_grad:
        raise SparsityError(
            f"{one.name!r} has requires_grad=False and would never train: leave it out with "
            "select=, or set requires_grad=True"
        )
    if not parameter.dtype.is_floating_point:
        raise SparsityError(f"{one.name!r} is of dtype {parameter.dtype}; only real ones train")
    if is_sharded(parameter) and one.is_compact:
        raise SparsityError(
            f"{one.name!r} is truly sparse and split over ranks, which cannot be: leave its module "
            "out of fully_shard, or keep it masked"
        )
    if is_sharded(parameter):
        check_placements(parameter, one.name)
    elif type(parameter.data) is not torch.Tensor and not isinstance(parameter.data, nn.Parameter):
        raise SparsityError(
            f"{one.name!r} is a {type(parameter.data).__name__}: of wrapped tensors only those of "
            "fully_shard are supported"
        )


def _reason(one: Owned) -> str:
    _, module, attribute = one.owners[0]
    kind = type(module).__name__
    if _is_embedding(one):
        return "tied to an embedding" if len(one.owners) > 1 else "embedding"
    if isinstance(module, _NORMS):
        return f"norm ({kind})"
    if attribute.startswith("bias"):
        return "bias"
    if one.parameter.dim() < 2:
        return f"{one.parameter.dim()}-d parameter"
    if any(default_weights(name, owner, one.parameter) for name, owner, _ in one.owners):
        return "left out by select"
    return f"free parameter of {kind}"
