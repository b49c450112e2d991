"""What an updater has done so far, and its form on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, final

import torch
from torch import Tensor

from regrow.errors import SparsityError
from regrow.topology import Topology, TopologyDelta, pack_bits, unpack_bits
from regrow.training._layers import MaskedWeight
from regrow.typing import StateDict

_FORMAT = 2
_T = TypeVar("_T")
_WIDTHS = (torch.uint8, torch.int16, torch.int32)


@final
@dataclass(frozen=True)
class Rewiring:
    """One rewiring that was done; numbers are per layer, in the order of the model.

    Args:
        step: The optimizer step it was done on, counted from 1.
        n_dropped: Units dropped.
        n_grown: Units grown; one that was dropped and came back at zero counts in both.
        nnz: Connections afterwards.
        took_part: Whether the layer was among those that were due.
    """

    step: int
    n_dropped: tuple[int, ...]
    n_grown: tuple[int, ...]
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
            tuple(topology.nnz for topology in topologies),
            tuple(delta is not None for delta in deltas),
        )


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
    rows = [[r.step, *r.n_dropped, *r.n_grown, *r.nnz, *r.took_part] for r in progress.history]
    width = 1 + 4 * len(layers)
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
        "structure": repr(topology.structure),
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
    if _entry(state, "format", int) != _FORMAT:
        raise SparsityError(f"the state has format {state['format']}; this version reads {_FORMAT}")
    saved = _entry(state, "layers", dict)
    names = [layer.name for layer in layers]
    if list(saved) != names:
        raise SparsityError(
            f"the state is of other layers: missing {[n for n in names if n not in saved]}, "
            f"unknown {[n for n in saved if n not in names]}"
            + (", or in another order" if set(saved) == set(names) else "")
        )
    steps = _count(state, "steps")
    history = _read_history(_entry(state, "history", Tensor), len(layers))
    read = [_read_layer(layer, saved[layer.name], len(history)) for layer in layers]
    overdue = _integers(state, "overdue", n_parts)
    progress = Progress(
        seed=_entry(state, "seed", int),
        initial_nnz=_integers(state, "initial_nnz", len(layers)),
        steps=steps,
        overdue=[None if due < 0 else due for due in overdue],
        history=history,
    )
    if any(due > steps for due in overdue):
        raise SparsityError(
            f"the state is damaged: a rewiring is overdue since step {max(overdue)}, and {steps} "
            "steps were performed"
        )
    _check_consistent(progress, [one.topology for one in read])
    return progress, read


def _integers(state: Mapping[str, object], key: str, n: int) -> list[int]:
    values = _entry(state, key, list)
    if len(values) != n or not all(type(value) is int for value in values):
        raise SparsityError(f"the state's {key!r} must be {n} integers, got {values!r:.80}")
    return list(values)


def _check_consistent(progress: Progress, topologies: Sequence[Topology]) -> None:
    steps = [record.step for record in progress.history]
    if steps != sorted(set(steps)) or any(not 1 <= step <= progress.steps for step in steps):
        raise SparsityError(
            f"the state is damaged: rewirings at steps {steps[:5]} ... do not ascend up to the "
            f"{progress.steps} steps performed"
        )
    nnz = [list(record.nnz) for record in progress.history]
    now = [topology.nnz for topology in topologies]
    if [progress.initial_nnz, *nnz][-1] != now:
        raise SparsityError(
            f"the state is damaged: its topologies have {now} connections, its history others"
        )
    sizes = [topology.n_elements for topology in topologies]
    counts = [progress.initial_nnz, *nnz]
    counts += [list(numbers) for r in progress.history for numbers in (r.n_dropped, r.n_grown)]
    if any(not 0 <= n <= size for row in counts for n, size in zip(row, sizes, strict=True)):
        raise SparsityError("the state is damaged: a count in its history is out of range")


def _read_layer(layer: MaskedWeight, saved: object, n_rewirings: int) -> SavedLayer:
    old = layer.topology
    if not isinstance(saved, Mapping):
        raise SparsityError(f"the state of {layer.name!r} must be a dict, got {type(saved)}")
    shape, structure = tuple(_entry(saved, "shape", list)), _entry(saved, "structure", str)
    if shape != old.shape or structure != repr(old.structure):
        raise SparsityError(
            f"the state of {layer.name!r} is of shape {shape}, {structure}; "
            f"the layer of shape {old.shape}, {old.structure!r}"
        )
    try:
        topology, ever = _read_topology(saved, old)
    except SparsityError as error:
        raise SparsityError(f"the state of {layer.name!r} is damaged: {error}") from error
    born = _entry(saved, "born", Tensor)
    if born.dtype not in _WIDTHS or tuple(born.shape) != (topology.n_active,):
        raise SparsityError(
            f"the state of {layer.name!r} is damaged: 'born' must be whole numbers of shape "
            f"({topology.n_active},), got {born.dtype} {tuple(born.shape)}"
        )
    born = born.to(torch.int32)
    if bool(((born < 0) | (born > n_rewirings)).any()):
        raise SparsityError(
            f"the state of {layer.name!r} is damaged: units born by a rewiring that is none of "
            f"the {n_rewirings} done"
        )
    return SavedLayer(topology.to(old.device), ever.to(old.device), born.to(old.device))


def _read_topology(saved: Mapping[str, object], old: Topology) -> tuple[Topology, Tensor]:
    active = unpack_bits(_entry(saved, "active", Tensor), old.n_units)
    ever = unpack_bits(_entry(saved, "ever_active", Tensor), old.n_units)
    allowed = None
    if "allowed" in saved:
        allowed = unpack_bits(_entry(saved, "allowed", Tensor), old.n_units)
    topology = Topology.from_active(active, old.shape, structure=old.structure, allowed=allowed)
    if topology.n_active != _count(saved, "n_active") or bool((active & ~ever).any()):
        raise SparsityError(
            f"{topology.n_active} units are active where {saved['n_active']} were saved, or some "
            "were never active"
        )
    return topology, ever


def _read_history(rows: Tensor, n: int) -> list[Rewiring]:
    if rows.dim() != 2 or rows.shape[1] != 1 + 4 * n or rows.dtype != torch.int64:
        raise SparsityError(
            f"the state's 'history' must be int64 of shape (rewirings, {1 + 4 * n}), "
            f"got {rows.dtype} {tuple(rows.shape)}"
        )
    history = []
    for step, *row in rows.tolist():
        dropped, grown, nnz, took_part = (tuple(row[i * n : (i + 1) * n]) for i in range(4))
        if any(flag not in (0, 1) for flag in took_part):
            raise SparsityError("the state is damaged: a flag in its history is neither 0 nor 1")
        history.append(Rewiring(step, dropped, grown, nnz, tuple(map(bool, took_part))))
    return history


def _entry(state: Mapping[str, object], key: str, kind: type[_T]) -> _T:
    value = state.get(key) if isinstance(state, Mapping) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise SparsityError(
            f"the updater's state must have {key!r} of type {kind.__name__}, got "
            f"{type(value).__name__}: pass what state_dict() returned"
        )
    return value


def _count(state: Mapping[str, object], key: str, *, least: int = 0) -> int:
    value = _entry(state, key, int)
    if value < least:
        raise SparsityError(f"the updater's state has {key!r} = {value}, below {least}")
    return value
