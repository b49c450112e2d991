"""What a sparse model costs: parameters, FLOPs and bytes.

Conventions. ``"mac2"``: a multiplication and an addition are two FLOPs, nothing else counts; the
dense total equals torch's ``FlopCounterMode``. ``"micronet"``: as RigL counts (Evci et al. 2020,
appendix H, after the MicroNet challenge): every layer with weights has a bias and, save the last,
a ReLU, so an output costs one FLOP more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast, final

from torch import nn

from regrow._checks import check_choice, check_count, check_fraction
from regrow._names import Owned, owned_parameters
from regrow.accounting._attribution import ReadCost, attribute
from regrow.errors import SparsityError
from regrow.topology import Topology

Convention = Literal["mac2", "micronet"]
CONVENTIONS = ("mac2", "micronet")
"""Ways to count that ``count`` knows."""


@final
@dataclass(frozen=True)
class CostReport:
    """What ``count`` found. FLOPs are those of the inputs that were passed, the whole batch.

    Args:
        convention: ``"mac2"`` or ``"micronet"``.
        parameters: All parameters, biases and norms included.
        live_parameters: Of these, the ones that exist under the topologies.
        nnz: Connections over the layers with a topology.
        dense_forward_flops: Forward pass of the dense model.
        forward_flops: Forward pass of the sparse model.
        layer_flops: Name -> FLOPs of the forward pass, sparse.
        dense_layer_flops: Name -> FLOPs of the forward pass, dense.
        dense_bytes: Size of the dense model.
        bytes: Size with live values and one mask bit for each element of a sparse tensor.
        index_bytes: Size with live values and an int32 column for each.
    """

    convention: str
    parameters: int
    live_parameters: int
    nnz: int
    dense_forward_flops: int
    forward_flops: int
    layer_flops: Mapping[str, int]
    dense_layer_flops: Mapping[str, int]
    dense_bytes: int
    bytes: int
    index_bytes: int

    @property
    def dense_training_flops(self) -> int:
        """One dense training step: the backward pass costs two forward passes."""
        return 3 * self.dense_forward_flops

    @property
    def training_flops(self) -> int:
        """One step of static sparse training or SET: three sparse forward passes."""
        return 3 * self.forward_flops

    def mean_training_flops(self, interval: int) -> float:
        """Mean step of RigL, which pays for a dense gradient on each rewiring.

        (3 f_S I + 2 f_S + f_D) / (I + 1), with f_S and f_D the sparse and the dense forward pass
        and I the update interval (Evci et al. 2020, appendix H).

        Args:
            interval: Steps from one rewiring to the next.
        """
        interval = check_count(interval, "interval")
        sparse, dense = self.forward_flops, self.dense_forward_flops
        return (3 * sparse * interval + 2 * sparse + dense) / (interval + 1)


def count(
    model: nn.Module,
    inputs: object,
    topologies: Mapping[str, Topology | float],
    *,
    convention: Convention = "mac2",
) -> CostReport:
    """Count what a model costs under given topologies, or under given sparsities.

    Args:
        model: Any module; run once in evaluation mode and left as it was.
        inputs: A tensor on the model's device, or a tuple of the model's positional arguments.
        topologies: Name, as in ``named_parameters()``, -> ``Topology``, or -> sparsity in [0, 1]
            as a real number; FLOPs are then rounded to the nearest whole number. Names left out
            are dense, or truly sparse layers with the topology they have.
        convention: ``"mac2"`` or ``"micronet"``: see the module.

    Returns:
        A ``CostReport``.

    Raises:
        SparsityError: A name is not a parameter, or a topology is of another shape.
        ValueError: Unknown convention, or a sparsity out of range.

    Example:
        >>> import torch
        >>> report = count(nn.Linear(10, 5), torch.zeros(1, 10), {"weight": 0.5})
        >>> report.dense_forward_flops, report.forward_flops
        (100, 50)
    """
    check_choice(convention, "convention", CONVENTIONS)
    owned = {one.name: one for one in owned_parameters(model)}
    topologies = {**_own_topologies(owned.values()), **topologies}
    density = dict.fromkeys(owned, 1.0)
    for name, topology in topologies.items():
        if name not in owned:
            raise SparsityError(f"topologies names {name!r}, which is no parameter of the model")
        density[name] = _density(name, topology, owned[name].shape)
    total, costs = attribute(model, inputs)
    last = max(costs, key=lambda name: costs[name].order, default=None)

    def flops_of(name: str, cost: ReadCost, share: float) -> float:
        extra = cost.n_outputs if convention == "micronet" and name != last else 0
        return cost.flops * share + extra

    dense = {name: flops_of(name, cost, 1.0) for name, cost in costs.items()}
    sparse = {name: flops_of(name, cost, density[name]) for name, cost in costs.items()}
    # What reads no parameter (products of activations) counts in full where FlopCounterMode does.
    rest = total - sum(cost.flops for cost in costs.values()) if convention == "mac2" else 0
    live = {name: round(one.n_elements * density[name]) for name, one in owned.items()}
    sizes = _sizes(owned, topologies, live, costs, convention)
    return CostReport(
        convention=convention,
        parameters=sum(one.n_elements for one in owned.values()),
        live_parameters=sum(live.values()),
        nnz=sum(live[name] for name in topologies),
        dense_forward_flops=round(sum(dense.values()) + rest),
        forward_flops=round(sum(sparse.values()) + rest),
        layer_flops={name: round(value) for name, value in sparse.items()},
        dense_layer_flops={name: round(value) for name, value in dense.items()},
        dense_bytes=sizes[0],
        bytes=sizes[1],
        index_bytes=sizes[2],
    )


def _own_topologies(owned: Iterable[Owned]) -> dict[str, Topology]:
    """Of truly sparse layers, which have theirs whatever is passed."""
    return {
        one.name: cast("Topology", one.owners[0][1].topology) for one in owned if one.is_compact
    }


def _density(name: str, topology: Topology | float, shape: tuple[int, ...]) -> float:
    if not isinstance(topology, Topology):
        return 1.0 - check_fraction(topology, f"sparsity of {name!r}", closed=True)
    if topology.shape != shape:
        raise SparsityError(
            f"the topology of {name!r} has shape {topology.shape}, the parameter {shape}"
        )
    return topology.nnz / topology.n_elements


def _sizes(
    owned: Mapping[str, Owned],
    topologies: Mapping[str, object],
    live: Mapping[str, int],
    costs: Mapping[str, ReadCost],
    convention: str,
) -> tuple[int, int, int]:
    """Bytes dense, with a mask bit an element, and with an int32 column a connection."""
    dense = masked = indexed = 0
    for name, one in owned.items():
        if convention == "micronet" and (name not in costs or costs[name].order < 0):
            continue  # biases follow below: one an output, whatever the model has
        element = 4 if convention == "micronet" else one.parameter.element_size()
        whole, alive = one.n_elements * element, live[name] * element
        is_sparse = name in topologies and live[name] < one.n_elements
        dense += whole
        masked += alive + (-(-one.n_elements // 8) if is_sparse else 0)
        indexed += alive + (4 * live[name] if is_sparse else 0)
        if convention == "micronet":
            bias = 4 * one.shape[0]
            dense, masked, indexed = dense + bias, masked + bias, indexed + bias
    return dense, masked, indexed
