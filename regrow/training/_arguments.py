"""Which optimizers and layers an updater can take, checked before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from regrow.errors import SparsityError
from regrow.training._distributed import (
    ProcessGroup,
    check_same_on_all,
    no_resize,
    resolve_group,
)
from regrow.training._layer import Layer
from regrow.training._optimizer_state import check_compact, check_optimizer, group_of_parameter
from regrow.training._rule import Part


def optimizers_of(optimizer: Optimizer | Sequence[Optimizer]) -> list[Optimizer]:
    """The optimizers passed, as a list.

    Raises:
        TypeError: Something else than an optimizer is among them.
        ValueError: None, one twice, or one that cannot train sparse weights.
    """
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else _listed(optimizer)
    if not optimizers:
        raise ValueError("optimizer must be an optimizer or several, got an empty sequence")
    for one in optimizers:
        check_optimizer(one)
    if len({id(one) for one in optimizers}) < len(optimizers):
        raise ValueError("optimizer names the same optimizer twice")
    return optimizers


def _listed(optimizer: object) -> list[Optimizer]:
    return list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]  # type: ignore[list-item]


def check_parts(parts: Sequence[Part], optimizers: Sequence[Optimizer]) -> None:
    """Refuse parts that contradict each other.

    Raises:
        SparsityError: A layer is in two of them.
        ValueError: They differ in ``weight_step``, or it is ``"after"`` with several optimizers.
    """
    names = [layer.name for part in parts for layer in part.layers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SparsityError(f"parts select the same weights: {', '.join(twice[:5])}")
    steps = {part.rule.weight_step for part in parts if part.rule is not None}
    if len(steps) > 1:
        raise ValueError(
            f"parts differ in weight_step: {', '.join(sorted(steps))}; a step either moves all "
            "weights or none: pass the same weight_step= to each"
        )
    if "after" in steps and len(optimizers) > 1:
        raise ValueError(
            "weight_step='after' needs a single optimizer: the last of several would step "
            "before the topology is known; pass 'before' or 'skip'"
        )


def owner_of_each(layers: Sequence[Layer], optimizers: Sequence[Optimizer]) -> list[Optimizer]:
    """The optimizer that steps each layer.

    Raises:
        SparsityError: A layer is in none or in several, or in one that cannot step it.
    """
    owners = []
    for layer in layers:
        holding = [
            optimizer
            for optimizer in optimizers
            if group_of_parameter(optimizer, layer.parameter) is not None
        ]
        if len(holding) != 1:
            raise SparsityError(
                f"the selected weight {layer.name!r} is in {len(holding)} of the optimizers "
                "passed, and must be in exactly one: "
                + ("take it out of the others" if holding else _built_from(layer))
            )
        if layer.topology.is_compact:
            check_compact(holding[0], layer.name)
        owners.append(holding[0])
    return owners


def _built_from(layer: Layer) -> str:
    """What to do about a layer that no optimizer has."""
    after = ", after compress_, which replaced them" if layer.topology.is_compact else ""
    return f"build the optimizer from the parameters of this model{after}"


def check_compact_over_ranks(
    model: nn.Module, parts: Sequence[Part], process_group: ProcessGroup
) -> None:
    """Refuse truly sparse layers that ranks cannot train together; ranks call it together.

    Raises:
        SparsityError: A rule would change the number of their connections.
        RankMismatchError: Their topologies differ from rank to rank: DDP copies values alone.
    """
    compact = [layer for part in parts for layer in part.layers if layer.topology.is_compact]
    group = resolve_group(model, process_group, compact) if compact else None
    if group is None:
        return
    for part in parts:
        rule = part.rule
        if rule is None or (rule.target is None and getattr(rule.budget, "by_layer", False)):
            continue
        for layer in part.layers:
            if layer.topology.is_compact:
                raise SparsityError(no_resize(layer.name))
    tensors = (tensor for layer in compact for tensor in layer.topology.csr)
    check_same_on_all(tensors, group=group, device=compact[0].parameter.device, step=0)
