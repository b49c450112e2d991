"""Several methods, sparsities or structures for parts of one model, in one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import nn
from torch.optim import Optimizer

from regrow.errors import SparsityError
from regrow.methods._attach import PartReady, StandIn
from regrow.training import Part, ProcessGroup, Select, TopologyUpdater

_FOR_ALL = ("seed", "process_group")


@final
@dataclass(frozen=True, eq=False)
class MethodPart:
    """What ``part`` returns: a method and its arguments, not called yet."""

    method: Callable[..., TopologyUpdater]
    arguments: Mapping[str, Any]


def part(
    method: Callable[..., TopologyUpdater],
    *,
    select: Select,
    **arguments: Any,  # noqa: ANN401 - those of the method, checked against its signature
) -> MethodPart:
    """One part of a model and how it is trained, for ``combine``.

    Args:
        method: One of ``regrow.methods``, such as ``regrow.rigl``.
        select: Which weights: globs over parameter names, or a predicate.
        **arguments: As the method takes them, without model, optimizer, seed and process group.

    Returns:
        The part.

    Raises:
        TypeError: ``method`` has no such argument, or one of its own is missing.
    """
    for name in _FOR_ALL:
        if name in arguments:
            raise TypeError(f"{name} holds for all parts: pass it to combine(), not to part()")
    chosen = {"select": select, **arguments}
    name, signature = getattr(method, "__name__", repr(method)), inspect.signature(method)
    unknown = [one for one in chosen if one not in signature.parameters]
    if unknown:  # before what is missing: that is often the same argument, spelt as it should be
        known = [one for one in list(signature.parameters)[2:] if one not in _FOR_ALL]
        raise TypeError(
            f"part({name}, ...): {name} has no argument {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(known)}"
        )
    try:
        signature.bind(None, None, **dict.fromkeys(_FOR_ALL), **chosen)
    except TypeError as error:
        raise TypeError(f"part({name}, ...): {error}") from error
    return MethodPart(method, chosen)


def combine(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    parts: Sequence[MethodPart],
    *,
    seed: int = 0,
    process_group: ProcessGroup = "auto",
) -> TopologyUpdater:
    """Train parts of one model by different methods, sparsities or structures.

    One updater drives all of them: one state, one report, one count of steps. Parts rewire when
    their own windows say so; what ``weight_step`` says must be the same for all that rewire.

    Args:
        model: Any module; the selected weights are made sparse in place.
        optimizer: The optimizer, or several that step in this order.
        parts: What ``part`` returned; no weight may be in two.
        seed: Seed of the topologies and of all later draws.
        process_group: Ranks that train the same model: "auto", a group, or None.

    Returns:
        The updater; nothing needs to be called in the training loop.

    Raises:
        SparsityError: Two parts select one weight, or a method refuses; nothing was changed.
        TypeError: ``parts`` holds something else.
        ValueError: No parts, or parts whose rules differ in ``weight_step``.

    Example:
        >>> import torch, regrow
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
        >>> parts = [
        ...     part(regrow.rigl, select="0.*weight", sparsity=0.75, n_steps=100, interval=10),
        ...     part(regrow.static, select="1.*weight", sparsity=None, structure=regrow.NM(2, 4)),
        ... ]
        >>> updater = combine(net, torch.optim.SGD(net.parameters(), lr=0.1), parts)
        >>> [topology.nnz for topology in updater.topologies.values()]
        [16, 32]
    """
    if not isinstance(parts, Sequence):
        raise TypeError(
            f"parts must be a sequence of what regrow.part(...) returned, got {parts!r:.80}"
        )
    if not parts:
        raise ValueError("parts must name at least one part of the model, got none")
    prepared = [_prepare(model, one, seed=seed, process_group=process_group) for one in parts]
    return TopologyUpdater(model, optimizer, parts=prepared, seed=seed, process_group=process_group)


def _prepare(model: nn.Module, one: MethodPart, *, seed: int, process_group: ProcessGroup) -> Part:
    if not isinstance(one, MethodPart):
        raise TypeError(f"parts must be made by regrow.part(method, select=...), got {one!r:.80}")
    try:
        one.method(model, StandIn(), seed=seed, process_group=process_group, **one.arguments)
    except PartReady as ready:
        return ready.part
    raise SparsityError(
        f"{one.method!r} is not one of regrow.methods: call it by itself, with its own select="
    )
