"""From a model and a budget to layers with topologies."""

from __future__ import annotations

from torch import nn

from regrow._names import Owned
from regrow.allocation import Allocation, Explicit, allocate_counts, erdos_renyi_kernel
from regrow.topology import (
    Structure,
    Topology,
    Unstructured,
    derived_generator,
    random_topology,
)
from regrow.training._layers import MaskedWeight
from regrow.training._weights import Select, choose_weights, default_weights


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
        SparsityError: Nothing is selected, or the budget cannot be met.
    """
    chosen = choose_weights(model, select)
    shapes = {one.name: tuple(one.parameter.shape) for one in chosen}
    for shape in shapes.values():
        structure.check(shape)
    counts = allocate_counts(shapes, sparsity, allocation, structure=structure)
    given = allocation.topologies if isinstance(allocation, Explicit) else {}

    def draw(one: Owned) -> Topology:
        if one.name in given:
            return given[one.name]
        shape, count = shapes[one.name], counts[one.name]
        if count == structure.n_units(shape):
            return Topology.full(shape, structure=structure)
        generator = derived_generator(seed, "initial", one.name)
        return random_topology(shape, count, generator=generator, structure=structure)

    return [
        MaskedWeight(one.name, one.parameter, draw(one).to(one.parameter.device)) for one in chosen
    ]


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
