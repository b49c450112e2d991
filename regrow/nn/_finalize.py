"""From a trained model to the one that is used."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from regrow._checks import check_choice
from regrow._names import Owned, owned_parameters, unwrap
from regrow._sharding import is_sharded
from regrow.errors import SparsityError
from regrow.nn._convert import dense_form, has_sparse_form, replace_modules, sparse_form
from regrow.nn._sparse_module import SparseModule
from regrow.topology import Topology

FORMS = ("sparse", "dense")


def finalize_(
    model: nn.Module,
    topologies: Mapping[str, Topology] | None = None,
    *,
    form: Literal["sparse", "dense"] = "sparse",
) -> nn.Module:
    """Turn a trained model into what is used for inference, in place.

    Layers and sparse weights are replaced by frozen ones in new memory, and an updater's check of
    the model is taken off it: nothing that an optimizer or an updater of the training still does
    reaches the result. The model is in evaluation mode afterwards, and no parameter requires a
    gradient or holds one.

    Args:
        model: Any module that trained with masks, with truly sparse layers, or with both.
        topologies: Name -> topology of each masked weight, as ``updater.topologies``; None where
            all that is sparse is truly sparse. Those of truly sparse layers may be among them.
        form: ``"sparse"``: Linear and Conv1d/2d/3d whose weight has a topology become truly sparse
            layers; other weights that have one stay dense with exact zeros. ``"dense"``: all are
            plain dense modules with exact zeros.

    Returns:
        ``model``; or, where it is itself a layer that is replaced, what takes its place.

    Raises:
        TypeError: ``model`` is no module, or ``topologies`` no mapping of topologies.
        ValueError: ``form`` is unknown.
        SparsityError: Nothing is sparse, a name or shape is no weight's, a weight is not zero
            outside its topology, or the model is parallel or sharded; nothing was changed.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 2))
        >>> topology = Topology(torch.tensor([0, 5]), (2, 4))
        >>> with torch.no_grad():
        ...     _ = net[0].weight.mul_(topology.mask)
        >>> print(finalize_(net, {"0.weight": topology})[0])
        SparseLinear(in_features=4, out_features=2, bias=True, nnz=2, sparsity=0.75)
    """
    check_choice(form, "form", FORMS)
    _check_model(model)
    sparse = _sparse_weights(model, {} if topologies is None else topologies)
    forms: dict[int, nn.Module] = {}
    for one, topology in sparse:
        if one.is_compact or (form == "sparse" and _is_convertible(one)):
            forms |= _forms(one, topology, form)
        else:
            _put_zeros(one, topology)
    _remove_guards(model)
    return freeze(replace_modules(model, lambda _, module: forms.get(id(module))))


def freeze(model: nn.Module) -> nn.Module:
    """Put a model in evaluation mode, without gradients."""
    model.eval().requires_grad_(requires_grad=False)
    for parameter in model.parameters():
        parameter.grad = None
    return model


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, DistributedDataParallel | DataParallel):
        raise SparsityError(
            f"finalize_ replaces parameters, which {type(model).__name__} has taken over: pass the "
            "module inside, model.module"
        )


def _sparse_weights(
    model: nn.Module, topologies: Mapping[str, Topology]
) -> list[tuple[Owned, Topology]]:
    """Each sparse weight with its topology; raises for whatever could go wrong later."""
    if not isinstance(topologies, Mapping):
        raise TypeError(
            "topologies must map names to topologies, as updater.topologies does, got "
            f"{type(topologies).__name__}"
        )
    owned = owned_parameters(model)
    by_name = {name: one for one in owned for name, _, _ in one.owners}
    given: dict[int, Topology] = {}
    for name, topology in topologies.items():
        if name not in by_name:
            raise SparsityError(
                f"topologies names {name!r}, which is no parameter; there are: "
                + ", ".join(list(by_name)[:10])
            )
        _check_topology(by_name[name], topology)
        given[id(by_name[name])] = topology
    found = [
        (one, _own_topology(one) if one.is_compact else given[id(one)])
        for one in owned
        if one.is_compact or id(one) in given
    ]
    if not found:
        raise SparsityError(
            "nothing in the model is sparse: of masked weights pass the topologies, as in "
            "finalize_(model, updater.topologies)"
        )
    return [(one, _plain(topology)) for one, topology in found]


def _own_topology(one: Owned) -> Topology:
    return one.owners[0][1].topology  # type: ignore[return-value]


def _check_topology(one: Owned, topology: object) -> None:
    if not isinstance(topology, Topology):
        raise TypeError(f"topologies[{one.name!r}] must be a Topology, got {topology!r:.80}")
    if topology.shape != one.shape:
        raise SparsityError(
            f"the topology of {one.name!r} has shape {topology.shape}, the weight {one.shape}"
        )
    if one.is_compact:
        if topology != _own_topology(one):
            raise SparsityError(
                f"the topology given for {one.name!r} is not the one that the truly sparse layer "
                "has: leave it out"
            )
        return
    if is_sharded(one.parameter):
        raise SparsityError(
            f"{one.name!r} is split over ranks: gather the model first, as with "
            "torch.distributed.checkpoint.state_dict.get_model_state_dict(full_state_dict=True)"
        )
    weight = one.parameter.detach()
    n_outside = int(weight.count_nonzero()) - int(
        weight[topology.mask.to(weight.device)].count_nonzero()
    )
    if n_outside:
        raise SparsityError(
            f"{n_outside:,} weights of {one.name!r} outside its topology are not zero: the "
            "topologies are not those that these weights were trained with"
        )


def _plain(topology: Topology) -> Topology:
    """Without the units that may ever be active: there is nothing left to grow."""
    if topology.allowed is None:
        return topology
    return Topology.from_active(topology.active, topology.shape, structure=topology.structure)


def _is_convertible(one: Owned) -> bool:
    return all(
        attribute == "weight" and has_sparse_form(module) for _, module, attribute in one.owners
    )


def _forms(one: Owned, topology: Topology, form: str) -> dict[int, nn.Module]:
    """Each owner's id -> what takes its place; tied ones share their weight."""
    modules = [module for _, module, _ in one.owners]
    made: Sequence[nn.Module]
    if not one.is_compact:
        made = [sparse_form(module, topology) for module in modules]
    elif form == "sparse":
        made = [_copied(module) for module in modules if isinstance(module, SparseModule)]
    else:
        made = [dense_form(module) for module in modules if isinstance(module, SparseModule)]
    attribute = "values" if isinstance(made[0], SparseModule) else "weight"
    for other in made[1:]:
        setattr(other, attribute, getattr(made[0], attribute))
    return dict(zip(map(id, modules), made, strict=True))


def _copied(module: SparseModule) -> SparseModule:
    """In memory of its own: updaters go on writing to the layers that they know."""
    bias = module.bias
    other = copy.deepcopy(module)
    other.bias = bias  # (it may be tied to others)
    # The connections by column serve gradients alone.
    other._layout = None
    return other


@torch.no_grad()
def _put_zeros(one: Owned, topology: Topology) -> None:
    """A frozen copy of the weight, in all its places, that is exactly zero outside."""
    dead = ~topology.mask.to(one.parameter.device)
    made = nn.Parameter(one.parameter.detach().clone(), requires_grad=False)
    made.masked_fill_(dead, 0.0)
    for _, module, attribute in one.owners:
        setattr(module, attribute, made)


def _remove_guards(model: nn.Module) -> None:
    """Take off the hooks with which updaters see to it that nobody replaces parameters."""
    for module in (model, unwrap(model)):
        for key, hook in list(module._forward_pre_hooks.items()):
            # (Known by where they were written: this package lies below theirs.)
            if type(hook).__module__.startswith("regrow.training."):
                del module._forward_pre_hooks[key]
