"""From a model and a budget to layers with topologies."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import cast

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
from regrow.training._compact import Holder
from regrow.training._layer import Layer, layer_of
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
    target: float | None = None,
) -> list[Layer]:
    """Choose weights, allocate the budget and draw topologies; the model is not changed.

    A truly sparse layer keeps its topology; sparsity and allocation must give it the count it has.

    Args:
        model: Any module.
        sparsity: Fraction in [0, 1) of zeros over the selected weights; None where ``allocation``
            fixes it, or where all selected layers are truly sparse.
        allocation: How the budget is spread.
        structure: What a unit is.
        select: Predicate or globs.
        seed: Seed of the draws; each layer's depend on its name as well.
        target: A sparsity at which truly sparse layers may also be, where the method will move them
            to its own by itself.

    Returns:
        A layer for each selected weight, in the order of the model.

    Raises:
        SparsityError: Nothing is selected, a structure does not fit, the budget cannot be met, or
            it gives a truly sparse layer another count.
        TypeError: ``allocation`` is no rule.
    """
    chosen = choose_weights(model, select)
    topologies = draw_topologies(
        chosen,
        sparsity=sparsity,
        allocation=allocation,
        structure=structure,
        seed=seed,
        target=target,
    )
    return [layer_of(one, topologies[one.name]) for one in chosen]


def draw_topologies(
    chosen: Sequence[Owned],
    *,
    sparsity: float | None,
    allocation: Allocation,
    structure: Structure,
    seed: int,
    target: float | None = None,
    compact: bool = False,
) -> dict[str, Topology]:
    """Name -> topology of each chosen weight; see ``prepare_layers``.

    Args:
        chosen: The weights.
        sparsity: As there.
        allocation: As there.
        structure: As there.
        seed: As there.
        target: As there.
        compact: Whether all are drawn as compressed rows.
    """
    _check_allocation(allocation)
    given = {one.name: _own_topology(one) for one in chosen if one.is_compact}
    if isinstance(allocation, Explicit):
        given = {**allocation.topologies, **given}
    structures = {one.name: _structure(one, structure, given.get(one.name)) for one in chosen}
    shapes = {one.name: one.shape for one in chosen}
    _check_fit(shapes, structures)
    if sparsity is None and all(one.is_compact for one in chosen):
        if not isinstance(allocation, Explicit):
            return {one.name: given[one.name] for one in chosen}
    elif all(one.fixed_sparsity is not None for one in structures.values()):
        _check_no_allocation(allocation, structure)
    counts = allocate_counts(shapes, sparsity, allocation, structure=structures)
    held = {one.name: given[one.name] for one in chosen if one.is_compact}
    if target is not None and any(topology.n_active != counts[n] for n, topology in held.items()):
        later = allocate_counts(shapes, target, allocation, structure=structures)
        counts |= {name: later[name] for name in held}
    for name, topology in held.items():
        _check_own(name, topology, counts[name], allocation)

    def draw(name: str) -> Topology:
        if name in given:
            return given[name]
        generator = derived_generator(seed, "initial", name)
        shape, count, own = shapes[name], counts[name], structures[name]
        if count == own.n_units(shape) and not compact:
            return Topology.full(shape, structure=own)
        return random_topology(shape, count, generator=generator, structure=own, compact=compact)

    return {one.name: draw(one.name) for one in chosen}


def _own_topology(one: Owned) -> Topology:
    return cast("Holder", one.owners[0][1]).topology


def _check_own(name: str, own: Topology, count: int, allocation: Allocation) -> None:
    """Raise if a truly sparse layer does not have what it is given."""
    explicit = allocation.topologies.get(name) if isinstance(allocation, Explicit) else None
    if explicit is not None and explicit != own:
        raise SparsityError(
            f"the topology given for {name!r} is not the one that the truly sparse layer has: "
            "leave it out, or densify_ the layer first"
        )
    if own.n_active != count:
        raise SparsityError(
            f"{name!r} is truly sparse with {own.n_active:,} units, where sparsity and allocation "
            f"give it {count:,}: pass those that compress_ was called with (for granet and gradual "
            "their initial_sparsity is what it was), or sparsity=None with "
            "allocation=regrow.explicit(...) of what compress_ returned"
        )


def _structure(one: Owned, structure: Structure, given: Topology | None) -> Structure:
    """Of a topology that was given its own, else the one asked for as the module has it."""
    wanted = structure_of(one.owners[0][1], structure)
    if given is None:
        return wanted
    if not isinstance(structure, Unstructured) and given.structure != wanted:
        raise SparsityError(
            f"structure={structure}, but the topology of {one.name!r} is {given.structure}: leave "
            "structure= out where topologies are given, or where layers have their own"
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
) -> dict[str, Layer]:
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
