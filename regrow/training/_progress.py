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
    pack_bits,
    structure_tag,
    unpack_bits,
)
from regrow.training._entries import entry, integer, integers, mapping, refuse, tensor
from regrow.training._layers import MaskedWeight
from regrow.typing import StateDict

_FORMAT = 2
# Far from the 4300 digits at which repr(), which draws are seeded by, gives up.
_LARGEST_SEED = 2**1000
_WIDTHS = (torch.uint8, torch.int16, torch.int32)


@final
@dataclass(frozen=True)
class Rewiring:
    """One rewiring that was done; numbers are per layer, in the order of the model.

    Args:
        step: The optimizer step it was done on, counted from 1.
        n_dropped: Units dropped.
        n_grown: Units grown; one that was dropped and came back at zero counts in both.
        n_new: Units that are active now and were not before: no such one among them.
        nnz: Connections afterwards.
        took_part: Whether the layer was among those that were due.
    """

    step: int
    n_dropped: tuple[int, ...]
    n_grown: tuple[int, ...]
    n_new: tuple[int, ...]
    nnz: tuple[int, ...]
    took_part: tuple[bool, ...]

    @classmethod
    def of(
        cls, step: int, deltas: Sequence[TopologyDelta | None], topologies: Sequence[Topology]
    ) -> Rewiring:
        """The record of decisions that were applied; None for layers that were not due."""
        return cls(
            step,
            tuple(0 if delta is None else delta.dropped.numel() for delta in deltas),
            tuple(0 if delta is None else delta.grown.numel() for delta in deltas),
            tuple(0 if delta is None else _n_new(delta) for delta in deltas),
            tuple(topology.nnz for topology in topologies),
            tuple(delta is not None for delta in deltas),
        )


def _n_new(delta: TopologyDelta) -> int:
    back = torch.isin(delta.grown, delta.dropped, assume_unique=True)
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


def write_progress(layers: Sequence[MaskedWeight], progress: Progress) -> StateDict:
    """The state of an updater: loads with ``torch.load(weights_only=True)``."""
    rows = [
        [r.step, *r.n_dropped, *r.n_grown, *r.n_new, *r.nnz, *r.took_part] for r in progress.history
    ]
    width = 1 + 5 * len(layers)
    return {
        "format": _FORMAT,
        "seed": progress.seed,
        "steps": progress.steps,
        "overdue": [-1 if due is None else due for due in progress.overdue],
        "initial_nnz": list(progress.initial_nnz),
        "history": torch.tensor(rows, dtype=torch.int64).reshape(len(rows), width),
        "layers": {layer.name: _write_layer(layer) for layer in layers},
    }


def _write_layer(layer: MaskedWeight) -> StateDict:
    topology, past = layer.topology, layer.lifetimes
    state = {
        "shape": list(topology.shape),
        "structure": structure_tag(topology.structure),
        "n_active": topology.n_active,
        "active": pack_bits(topology.active),
        "ever_active": pack_bits(past.ever_active),
        "born": _narrow(past.born.cpu()),
    }
    if topology.allowed is not None:
        state["allowed"] = pack_bits(topology.allowed)
    return state


@final
@dataclass(frozen=True, eq=False)
class SavedLayer:
    """What a state says of one layer, on the layer's device."""

    topology: Topology
    ever_active: Tensor
    born: Tensor


def _narrow(counts: Tensor) -> Tensor:
    """The same whole numbers in as few bytes as hold them: a run has few rewirings."""
    largest = int(counts.max()) if counts.numel() else 0
    return counts.to(next(t for t in _WIDTHS if largest <= torch.iinfo(t).max))


def read_progress(
    state: StateDict, layers: Sequence[MaskedWeight], *, n_parts: int
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
    read = [_read_layer(layer, saved[layer.name], history, i) for i, layer in enumerate(layers)]
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
    _check_consistent(progress, [one.topology for one in read])
    return progress, read


def _check_names(found: Sequence[str], names: Sequence[str]) -> None:
    if list(found) == list(names):
        return
    missing, unknown = sorted({*names} - {*found}), sorted({*found} - {*names})
    raise SparsityError(
        f"the state is of other layers: missing {missing[:5]}, unknown {unknown[:5]!s:.400}"
        + ("" if missing or unknown else ", or in another order")
    )


def _check_consistent(progress: Progress, topologies: Sequence[Topology]) -> None:
    steps = [record.step for record in progress.history]
    if steps != sorted(set(steps)) or any(not 1 <= step <= progress.steps for step in steps):
        raise SparsityError(
            f"the state is damaged: rewirings at steps {steps[:5]} ... do not ascend up to the "
            f"{progress.steps} steps performed"
        )
    for i, topology in enumerate(topologies):
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
        if nnz != topology.nnz:
            raise SparsityError(
                f"the state is damaged: layer {i} has {topology.nnz} connections, by its history "
                f"{nnz}"
            )


def _read_layer(
    layer: MaskedWeight, saved: object, history: Sequence[Rewiring], index: int
) -> SavedLayer:
    old = layer.topology
    _check_kind(saved, old, layer.name)
    try:
        topology, ever = _read_topology(saved, old)
        born = _read_born(saved, topology, [record.n_grown[index] for record in history])
    except SparsityError as error:
        raise SparsityError(f"the state of {layer.name!r} is damaged: {error}") from error
    return SavedLayer(topology.to(old.device), ever.to(old.device), born.to(old.device))


def _check_kind(saved: object, old: Topology, name: str) -> None:
    shape, structure = tuple(integers(saved, "shape")), entry(saved, "structure", str)
    if shape != old.shape or structure != structure_tag(old.structure):
        raise SparsityError(
            f"the state of {name!r} is of shape {shape!s:.80}, {structure:.80}; the layer of shape "
            f"{old.shape}, {structure_tag(old.structure)}"
        )


def _read_topology(saved: object, old: Topology) -> tuple[Topology, Tensor]:
    active = unpack_bits(tensor(saved, "active"), old.n_units)
    ever = unpack_bits(tensor(saved, "ever_active"), old.n_units)
    if old.allowed is None:
        allowed = None
        refuse(saved, "allowed", "the layer may use all units: build the updater as it was then")
    else:
        allowed = unpack_bits(tensor(saved, "allowed"), old.n_units)
    topology = Topology.from_active(active, old.shape, structure=old.structure, allowed=allowed)
    n_active = integer(saved, "n_active")
    if topology.n_active != n_active or bool((active & ~ever).any()):
        raise SparsityError(
            f"{topology.n_active} units are active where {n_active} were saved, or some were "
            "never active"
        )
    if allowed is not None and bool((ever & ~allowed).any()):
        raise SparsityError("units were active that are not allowed")
    return topology, ever


def _read_born(saved: object, topology: Topology, n_grown: Sequence[int]) -> Tensor:
    """The rewiring that each active unit was grown by; 0 for those of the start."""
    born = tensor(saved, "born")
    if born.dtype not in _WIDTHS or tuple(born.shape) != (topology.n_active,):
        raise SparsityError(
            f"'born' must be whole numbers of shape ({topology.n_active},), got {born.dtype} "
            f"{tuple(born.shape)}"
        )
    born = born.cpu().to(torch.int64)
    if bool(((born < 0) | (born > len(n_grown))).any()):
        raise SparsityError(f"units were born by a rewiring that is none of {len(n_grown)} done")
    counts = torch.bincount(born, minlength=1 + len(n_grown)).tolist()[1:]
    if any(count > grown for count, grown in zip(counts, n_grown, strict=True)):
        raise SparsityError("more units were born by a rewiring than it grew")
    return born.to(torch.int32)


def _read_history(rows: Tensor, n: int) -> list[Rewiring]:
    if rows.dim() != 2 or rows.shape[1] != 1 + 5 * n or rows.dtype != torch.int64:
        raise SparsityError(
            f"the state's 'history' must be int64 of shape (rewirings, {1 + 5 * n}), "
            f"got {rows.dtype} {tuple(rows.shape)}"
        )
    history = []
    for step, *row in rows.tolist():
        dropped, grown, new, nnz, took_part = (tuple(row[i * n : (i + 1) * n]) for i in range(5))
        if any(flag not in (0, 1) for flag in took_part):
            raise SparsityError("the state is damaged: a flag in its history is neither 0 nor 1")
        history.append(Rewiring(step, dropped, grown, new, nnz, tuple(map(bool, took_part))))
    return history
