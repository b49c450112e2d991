"""Static sparse training: a random topology that stays."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from regrow.allocation import Allocation
from regrow.methods._attach import ERK, UNSTRUCTURED, attach
from regrow.methods._structures import structures_of
from regrow.topology import Structure
from regrow.training import ProcessGroup, Select, TopologyUpdater, default_weights


def static(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    sparsity: float | None,
    seed: int = 0,
    allocation: Allocation = ERK,
    structure: Structure = UNSTRUCTURED,
    select: Select = default_weights,
    process_group: ProcessGroup = "auto",
) -> TopologyUpdater:
    """Train a random sparse topology that never changes: the control of every dynamic method.

    Args:
        model: Any module; the selected weights are made sparse in place.
        optimizer: The optimizer, or several that step in this order.
        sparsity: Fraction in [0, 1) of zeros over the selected weights; None where ``allocation``
            fixes it.
        seed: Seed of the topology.
        allocation: How the budget is spread over layers.
        structure: What a unit is.
        select: Predicate (name, module, parameter) -> bool, or globs over parameter names.
        process_group: Ranks that train the same model: ``"auto"``, a group, or None.

    Returns:
        The updater; nothing needs to be called in the training loop.

    Raises:
        SparsityError: The budget cannot be met, or a weight is in no optimizer; nothing was
            changed.
        ValueError: An argument is out of range.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(10, 10)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> static(model, optimizer, sparsity=0.8).nnz
        20
    """
    return attach(
        model,
        optimizer,
        sparsity=sparsity,
        rule=None,
        takes=structures_of("static"),
        seed=seed,
        allocation=allocation,
        structure=structure,
        select=select,
        process_group=process_group,
    )
