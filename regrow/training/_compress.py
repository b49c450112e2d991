"""compress_: the selected layers of a model as truly sparse ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from regrow._checks import check_choice, check_fraction, check_is_structure
from regrow._names import Owned
from regrow.allocation import Allocation, erdos_renyi_kernel
from regrow.errors import SparsityError
from regrow.topology import Structure, Topology, Unstructured
from regrow.training._prepare import draw_topologies
from regrow.training._weights import Select, choose_weights, default_weights

if TYPE_CHECKING:
    from regrow.nn import SparseModule

_log = logging.getLogger(__name__)

CONVERT = ("all", "faster")


def compress_(
    model: nn.Module,
    *,
    sparsity: float | None,
    inputs: object = None,
    allocation: Allocation | None = None,
    structure: Structure | None = None,
    select: Select = default_weights,
    convert: Literal["all", "faster"] = "all",
    seed: int = 0,
) -> dict[str, Topology]:
    """Draw a topology for each selected weight, and make its layer truly sparse, in place.

    Values and indices take the place of the dense weight: parameters are replaced, so build the
    optimizer afterwards, and any method after that, with the same ``sparsity`` and ``allocation``,
    or with ``sparsity=None, allocation=regrow.explicit(topologies)`` of what this returns, or, if
    all selected layers were converted, with ``sparsity=None`` alone.

    Topologies are those that a method draws with the same arguments. Linear and Conv1d/2d/3d have
    a truly sparse form; other selected weights (attention, recurrent and transposed layers,
    subclasses) stay dense with zeros outside their topology, as ``sparsify_`` leaves them, and
    methods mask them.

    Args:
        model: Any module, not itself one of the layers.
        sparsity: Fraction in [0, 1) of zeros over the selected weights; None where ``allocation``
            fixes it.
        inputs: An example batch, or a tuple of the model's positional arguments; for ``"faster"``.
        allocation: How the budget is spread; by default ``erdos_renyi_kernel()``.
        structure: What a unit is; by default a single element.
        select: Predicate (name, module, parameter) -> bool, or globs over parameter names.
        convert: ``"all"``, or ``"faster"``: those whose training step takes less time truly sparse
            than dense on ``inputs``, measured now.
        seed: Any integer.

    Returns:
        Name of the weight, such as ``fc.weight`` -> topology, for all selected ones; compact where
        the layer was converted.

    Raises:
        TypeError: An argument is of another type.
        ValueError: ``convert`` is unknown, or ``inputs`` missing for it.
        SparsityError: Nothing is selected, the budget cannot be met, the model is itself a layer,
            or parallel; nothing was changed.

    Example:
        >>> net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        >>> topologies = compress_(net, sparsity=0.9)
        >>> print(net[0])
        SparseLinear(in_features=64, out_features=64, bias=True, nnz=300, sparsity=0.9268)
    """
    from regrow.nn import replace_modules

    check_choice(convert, "convert", CONVERT)
    if convert == "faster" and inputs is None:
        raise ValueError("inputs must be an example batch where convert='faster', got None")
    if sparsity is not None:
        check_fraction(sparsity, "sparsity")
    structure = Unstructured() if structure is None else structure
    check_is_structure(structure)
    _check_model(model)
    chosen = choose_weights(model, select)
    topologies = draw_topologies(
        chosen,
        sparsity=sparsity,
        allocation=erdos_renyi_kernel() if allocation is None else allocation,
        structure=structure,
        seed=seed,
        compact=True,
    )
    convertible = [one for one in chosen if _is_convertible(one)]
    forms = _forms(convertible, topologies)
    if convert == "faster":
        forms = _faster(model, inputs, convertible, forms)
    replace_modules(model, lambda _, module: forms.get(id(module)))
    for one in chosen:
        if not one.is_compact and id(one.owners[0][1]) not in forms:
            topologies[one.name] = _masked(one, topologies[one.name])
    return topologies


# (Truly sparse layers are imported on first use: they bring along the operations, which a masked
# training has no need of.)


def _check_model(model: nn.Module) -> None:
    from regrow.nn import has_sparse_form

    if isinstance(model, nn.Module) and has_sparse_form(model):
        raise SparsityError(
            f"the model is itself a {type(model).__name__}, which cannot be replaced in place: put "
            "it in a Sequential, or use regrow.nn.sparse_form"
        )
    if isinstance(model, DistributedDataParallel | DataParallel):
        raise SparsityError(
            f"compress_ replaces parameters, which {type(model).__name__} has taken over already: "
            "call it on the module first, and wrap that"
        )


def _is_convertible(one: Owned) -> bool:
    from regrow.nn import has_sparse_form

    return not one.is_compact and all(
        attribute == "weight" and has_sparse_form(module) for _, module, attribute in one.owners
    )


def _forms(chosen: Sequence[Owned], topologies: dict[str, Topology]) -> dict[int, SparseModule]:
    """Each module's id -> its truly sparse form; tied ones share their values."""
    from regrow.nn import sparse_form

    forms: dict[int, SparseModule] = {}
    for one in chosen:
        made = [sparse_form(module, topologies[one.name]) for _, module, _ in one.owners]
        for other in made[1:]:
            other.values = made[0].values
        forms.update(zip((id(module) for _, module, _ in one.owners), made, strict=True))
        topologies[one.name] = made[0].topology
    return forms


def _faster(
    model: nn.Module, inputs: object, chosen: Sequence[Owned], forms: Mapping[int, SparseModule]
) -> dict[int, SparseModule]:
    """Of the forms those whose step is faster than the dense layer's on its own input."""
    from regrow.nn import layer_inputs, step_seconds

    modules = [one.owners[0][1] for one in chosen]
    kept: dict[int, SparseModule] = {}
    for one, module, x in zip(chosen, modules, layer_inputs(model, inputs, modules), strict=True):
        if x is None:
            _log.info("%s is not called on these inputs and stays dense", one.name)
            continue
        dense, sparse = step_seconds([module, forms[id(module)]], x)
        _log.info("%s: dense %.3f ms, sparse %.3f ms", one.name, 1e3 * dense, 1e3 * sparse)
        if sparse < dense:
            kept.update({id(m): forms[id(m)] for _, m, _ in one.owners})
    return kept


@torch.no_grad()
def _masked(one: Owned, topology: Topology) -> Topology:
    """Zero what is outside, as ``sparsify_`` does; the topology in the form of masked layers."""
    flags = Topology.from_active(topology.active, topology.shape, structure=topology.structure)
    flags = flags.to(one.parameter.device)
    one.parameter.mul_(flags.mask)
    return flags
