"""What an updater has done so far, and its form on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from regrow.errors import SparsityError
from regrow.topology import (
    Topology,
    TopologyDelta,
    are_among,
)
from regrow.training._entries import integer, integers, mapping, tensor
from regrow.training._layer import Layer
from regrow.training._saved_layer import SavedLayer, read_layer, write_layer
from regrow.typing import StateDict

_FORMAT = 3
# Far from the 4300 digits at which repr(), which draws are seeded by, gives up.
_LARGEST_SEED = 2**1000
_WIDTHS = (torch.uint8, torch.int16, torch.int32)


@final
@dataclass(frozen=True)
class Rewiring:
    """One rewiring that was done; numbers are per layer, in the order of the model.

    Args:
        step: The optimizer step it was done on, counted from 1; 0 for an edit before the first.
        n_dropped: Units dropped.
        n_grown: Units grown; one that was dropped and came back at zero counts in both.
        n_new: Units that are active now and were not before: no such one among them.
        nnz: Connections afterwards.
        took_part: Whether the layer was among those that were due, or edited.
        is_edit: Whether it was asked for by ``TopologyUpdater.edit``, beside a step and not on one.
    """

    step: int
    n_dropped: tuple[int, ...]
    n_grown: tuple[int, ...]
    n_new: tuple[int, ...]
    nnz: tuple[int, ...]
    took_part: tuple[bool, ...]
    is_edit: bool = False

    @classmethod
    def of(
        cls,
        step: int,
        deltas: Sequence[TopologyDelta | None],
        topologies: Sequence[Topology],
        *,
        is_edit: bool = False,
    ) -> Rewiring:
        """The record of decisions that were applied; None for layers that were not due."""
        return cls(
            step,
            tuple(0 if delta is None else delta.dropped.numel() for delta in deltas),
            tuple(0 if delta is None else delta.grown.numel() for delta in deltas),
            tuple(0 if delta is None else _n_new(delta) for delta in deltas),
            tuple(topology.nnz for topology in topologies),
            tuple(delta is not None for delta in deltas),
            is_edit,
        )


def _n_new(delta: TopologyDelta) -> int:
    back = are_among(delta.dropped, delta.grown)
    return delta.grown.numel() - int(back.count_nonzero())


@final
@dataclass
class Progress:
    """Counters of an updater; together with topologies and schedules they fix all that follows.

    Args:
        seed: Seed of all draws.
        initial_nnz: Connections of each layer at the start.
        steps: Optimizer steps performed.
        overdue: For each part, the planned step of a rewiring that had to wait, or None.
        history: Rewirings done.
    """

    seed: int
    initial_nnz: list[int]
    overdue: list[int | None]
    steps: int = 0
    history: list[Rewiring] = field(default_factory=list)


def write_progress(layers: Sequence[Layer], progress: Progress) -> StateDict:
    """The state of an updater: loads with ``torch.load(weights_only=True)``."""
    rows = [
        [r.step, r.is_edit, *r.n_dropped, *r.n_grown, *r.n_new, *r.nnz, *r.took_part]
        for r in progress.history
    ]
    width = 2 + 5 * len(layers)
    return {
        "format": _FORMAT,
        "seed": progress.seed,
        "steps": progress.steps,
        "overdue": [-1 if due is None else due for due in progress.overdue],
        "initial_nnz": list(progress.initial_nnz),
        "history": torch.tensor(rows, dtype=torch.int64).reshape(len(rows), width),
        "layers": {layer.name: write_layer(layer) for layer in layers},
    }


def read_progress(
    state: StateDict, layers: Sequence[Layer], *, n_parts: int
) -> tuple[Progress, list[SavedLayer]]:
    """Check a state against the layers it is for, and read it; nothing is changed.

    Args:
        state: What ``write_progress`` made.
        layers: The layers to load it into.
        n_parts: Number of parts of the updater.

    Returns:
        The counters, and what was saved of each layer.

    Raises:
        SparsityError: Something is missing, damaged, or of another model; the message says what.
    """
    if (found := integer(state, "format")) != _FORMAT:
        raise SparsityError(f"the state has format {found}; this version reads {_FORMAT}")
    saved = mapping(state, "layers")
    _check_names(list(saved), [layer.name for layer in layers])
    steps = integer(state, "steps")
    history = _read_history(tensor(state, "history"), len(layers))
    read = [read_layer(layer, saved[layer.name], history, i) for i, layer in enumerate(layers)]
    overdue = integers(state, "overdue", n_parts, least=-1)
    progress = Progress(
        seed=integer(state, "seed", least=-_LARGEST_SEED, most=_LARGEST_SEED),
        initial_nnz=integers(state, "initial_nnz", len(layers)),
        steps=steps,
        overdue=[None if due < 0 else due for due in overdue],
        history=history,
    )
    if 0 in overdue or any(due > steps for due in overdue):
        raise SparsityError(
            f"the state is damaged: a rewiring is overdue since step {max(overdue)}, and {steps} "
            "steps were performed"
        )
    _check_consistent(progress, layers, [one.nnz for one in read])
    return progress, read


def _check_names(found: Sequence[str], names: Sequence[str]) -> None:
    if list(found) == list(names):
        return
    missing, unknown = sorted({*names} - {*found}), sorted({*found} - {*names})
    raise SparsityError(
        f"the state is of other layers: missing {missing[:5]}, unknown {unknown[:5]!s:.400}"
        + ("" if missing or unknown else ", or in another order")
    )


def _check_consistent(
    progress: Progress, layers: Sequence[Layer], saved_nnz: Sequence[int]
) -> None:
    steps = [record.step for record in progress.history]
    at_steps = [record.step for record in progress.history if not record.is_edit]
    if (
        len(set(at_steps)) < len(at_steps)
        or steps != sorted(steps)
        or any(not 0 <= step <= progress.steps for step in steps)
    ):
        raise SparsityError(
            f"the state is damaged: rewirings at steps {steps[:5]} ... do not ascend up to the "
            f"{progress.steps} steps performed"
        )
    for i, (layer, found) in enumerate(zip(layers, saved_nnz, strict=True)):
        topology = layer.topology
        nnz, size = progress.initial_nnz[i], topology.unit_size
        for r in progress.history:
            dropped, grown, new = r.n_dropped[i], r.n_grown[i], r.n_new[i]
            after = nnz + size * (grown - dropped)
            may = r.took_part[i] or dropped == grown == 0
            fits = 0 <= after <= topology.n_elements and 0 <= size * dropped <= nnz and grown >= 0
            came_back = 0 <= new <= grown <= new + dropped
            if r.nnz[i] != after or not fits or not may or not came_back:
                raise SparsityError(
                    f"the state is damaged: the counts of layer {i} in the rewiring of step "
                    f"{r.step} contradict those before it"
                )
            nnz = after
        if nnz != found:
            raise SparsityError(
                f"the state is damaged: layer {i} has {found} connections, by its history {nnz}"
            )


def _read_history(rows: Tensor, n: int) -> list[Rewiring]:
    if rows.dim() != 2 or rows.shape[1] != 2 + 5 * n or rows.dtype != torch.int64:
        raise SparsityError(
            f"the state's 'history' must be int64 of shape (rewirings, {2 + 5 * n}), "
            f"got {rows.dtype} {tuple(rows.shape)}"
        )
    history = []
    for step, is_edit, *row in rows.tolist():
        dropped, grown, new, nnz, took_part = (tuple(row[i * n : (i + 1) * n]) for i in range(5))
        if any(flag not in (0, 1) for flag in (is_edit, *took_part)):
            raise SparsityError("the state is damaged: a flag in its history is neither 0 nor 1")
        flags = tuple(map(bool, took_part))
        history.append(Rewiring(step, dropped, grown, new, nnz, flags, bool(is_edit)))
    return history
