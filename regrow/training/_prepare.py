"""From a model and a budget to layers with topologies."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import nn

from regrow._names import Owned
from regrow.allocation import Allocation, Explicit, allocate_counts, erdos_renyi_kernel
from regrow.errors import SparsityError
from regrow.topology import (
    Structure,
    Topology,
    Unstructured,
    derived_generator,
    random_topology,
)
from regrow.training._layers import MaskedWeight
from regrow.training._weights import Select, choose_weights, default_weights, structure_of
from regrow.typing import Shape


def prepare_layers(
    model: nn.Module,
    *,
    sparsity: float | None,
    allocation: Allocation,
    structure: Structure,
    select: Select,
    seed: int,
) -> list[MaskedWeight]:
    """Choose weights, allocate the budget and draw topologies; the model is not changed.

    Args:
        model: Any module.
        sparsity: Fraction in [0, 1) of zeros over the selected weights; None where ``allocation``
            fixes it.
        allocation: How the budget is spread.
        structure: What a unit is.
        select: Predicate or globs.
        seed: Seed of the draws; each layer's depend on its name as well.

    Returns:
        A layer for each selected weight, in the order of the model.

    Raises:
        SparsityError: Nothing is selected, a structure does not fit, or the budget cannot be met.
        TypeError: ``allocation`` is no rule.
    """
    _check_allocation(allocation)
    chosen = choose_weights(model, select)
    given = allocation.topologies if isinstance(allocation, Explicit) else {}
    structures = {one.name: _structure(one, structure, given.get(one.name)) for one in chosen}
    shapes = {one.name: tuple(one.parameter.shape) for one in chosen}
    _check_fit(shapes, structures)
    if all(one.fixed_sparsity is not None for one in structures.values()):
        _check_no_allocation(allocation, structure)
    counts = allocate_counts(shapes, sparsity, allocation, structure=structures)

    def draw(name: str) -> Topology:
        if name in given:
            return given[name]
        generator = derived_generator(seed, "initial", name)
        shape, count, own = shapes[name], counts[name], structures[name]
        if count == own.n_units(shape):
            return Topology.full(shape, structure=own)
        return random_topology(shape, count, generator=generator, structure=own)

    return [
        MaskedWeight(one.name, one.parameter, draw(one.name).to(one.parameter.device))
        for one in chosen
    ]


def _structure(one: Owned, structure: Structure, given: Topology | None) -> Structure:
    """Of a topology that was given its own, else the one asked for as the module has it."""
    wanted = structure_of(one.owners[0][1], structure)
    if given is None:
        return wanted
    if not isinstance(structure, Unstructured) and given.structure != wanted:
        raise SparsityError(
            f"structure={structure}, but the topology given for {one.name!r} is {given.structure}: "
            "leave structure= out where topologies are given"
        )
    return given.structure


def _check_fit(shapes: Mapping[str, Shape], structures: Mapping[str, Structure]) -> None:
    """Raise for all weights that cannot have their structure at once."""
    misfits = {}
    for name, shape in shapes.items():
        try:
            structures[name].check(shape)
        except SparsityError as error:
            misfits[name] = str(error)
    if misfits:
        name, reason = next(iter(misfits.items()))
        more = "" if len(misfits) == 1 else f" (and {', '.join(map(repr, list(misfits)[1:5]))})"
        raise SparsityError(f"the weight {name!r}{more} cannot be sparse so: {reason}")


def _check_allocation(allocation: object) -> None:
    message = (
        "allocation must be a rule, called as (shapes, sparsity): regrow.uniform() or "
        f"regrow.erdos_renyi_kernel(), with brackets, got {allocation!r:.80}"
    )
    if not callable(allocation):
        raise TypeError(message)
    try:
        inspect.signature(allocation).bind({}, None)
    except TypeError as error:
        raise TypeError(message) from error


def _check_no_allocation(allocation: Allocation, structure: Structure) -> None:
    if not isinstance(allocation, Explicit) and allocation != erdos_renyi_kernel():
        raise SparsityError(
            f"allocation={allocation} has no effect: {structure} fixes the sparsity of every "
            "layer; leave it out"
        )


def sparsify_(
    model: nn.Module,
    *,
    sparsity: float | None,
    structure: Structure | None = None,
    allocation: Allocation | None = None,
    select: Select = default_weights,
    seed: int = 0,
) -> dict[str, MaskedWeight]:
    """Draw a topology for each selected weight and zero what is outside it, in place.

    This alone does not keep training sparse: pass the layers to a ``TopologyUpdater``, or call a
    method such as ``regrow.rigl`` or ``regrow.static`` instead, which does both.

    Args:
        model: Any module; the selected weights are changed in place.
        sparsity: Fraction in [0, 1) of zeros over the selected weights; None where ``allocation``
            fixes it.
        structure: What a unit is; by default a single element.
        allocation: How the budget is spread; by default ``erdos_renyi_kernel()``.
        select: Predicate (name, module, parameter) -> bool, or globs over parameter names; by
            default the weights of Linear, Bilinear, convolutions, attention and recurrent layers.
        seed: Any integer.

    Returns:
        Name -> layer, in the order of the model.

    Raises:
        SparsityError: Nothing is selected, or the budget cannot be met; nothing was changed.

    Example:
        >>> layers = sparsify_(nn.Linear(10, 10), sparsity=0.8)
        >>> layers["weight"].topology.nnz
        20
    """
    layers = prepare_layers(
        model,
        sparsity=sparsity,
        allocation=erdos_renyi_kernel() if allocation is None else allocation,
        structure=Unstructured() if structure is None else structure,
        select=select,
        seed=seed,
    )
    for layer in layers:
        layer.enforce(None)
    return {layer.name: layer for layer in layers}
