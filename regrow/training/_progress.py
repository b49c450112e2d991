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

_FORMAT = 1
_T = TypeVar("_T")


@final
@dataclass(frozen=True)
class Rewiring:
    """One rewiring that was done; numbers are per layer, in the order of the model.

    Args:
        step: The optimizer step it was done on, counted from 1.
        n_dropped: Units dropped.
        n_grown: Units grown; one that was dropped and came back at zero counts in both.
        nnz: Connections afterwards.
    """

    step: int
    n_dropped: tuple[int, ...]
    n_grown: tuple[int, ...]
    nnz: tuple[int, ...]

    @classmethod
    def of(
        cls, step: int, deltas: Sequence[TopologyDelta], topologies: Sequence[Topology]
    ) -> Rewiring:
        """The record of decisions that were applied."""
        return cls(
            step,
            tuple(delta.dropped.numel() for delta in deltas),
            tuple(delta.grown.numel() for delta in deltas),
            tuple(topology.nnz for topology in topologies),
        )


@final
@dataclass
class Progress:
    """Counters of an updater; together with topologies and schedules they fix all that follows.

    Args:
        seed: Seed of all draws.
        initial_nnz: Connections of each layer at the start.
        steps: Optimizer steps performed.
        overdue: Planned step of a rewiring that had to wait, or None.
        history: Rewirings done.
    """

    seed: int
    initial_nnz: list[int]
    steps: int = 0
    overdue: int | None = None
    history: list[Rewiring] = field(default_factory=list)


def write_progress(layers: Sequence[MaskedWeight], progress: Progress) -> StateDict:
    """The state of an updater: loads with ``torch.load(weights_only=True)``."""
    rows = [[r.step, *r.n_dropped, *r.n_grown, *r.nnz] for r in progress.history]
    width = 1 + 3 * len(layers)
    return {
        "format": _FORMAT,
        "seed": progress.seed,
        "steps": progress.steps,
        "overdue": -1 if progress.overdue is None else progress.overdue,
        "initial_nnz": list(progress.initial_nnz),
        "history": torch.tensor(rows, dtype=torch.int64).reshape(len(rows), width),
        "layers": {
            layer.name: {
                "shape": list(layer.topology.shape),
                "structure": repr(layer.topology.structure),
                "n_active": layer.topology.n_active,
                "active": pack_bits(layer.topology.active),
                "ever_active": pack_bits(layer.ever_active),
            }
            for layer in layers
        },
    }


def read_progress(
    state: StateDict, layers: Sequence[MaskedWeight]
) -> tuple[Progress, list[Topology], list[Tensor]]:
    """Check a state against the layers it is for, and read it; nothing is changed.

    Args:
        state: What ``write_progress`` made.
        layers: The layers to load it into.

    Returns:
        The counters, and the topology and the ever-active units of each layer on its device.

    Raises:
        SparsityError: Something is missing, damaged, or of another model; the message says what.
    """
    saved = _entry(state, "layers", dict)
    names = [layer.name for layer in layers]
    if list(saved) != names:
        raise SparsityError(
            f"the state is of other layers: missing {[n for n in names if n not in saved]}, "
            f"unknown {[n for n in saved if n not in names]}"
            + (", or in another order" if set(saved) == set(names) else "")
        )
    if _entry(state, "format", int) != _FORMAT:
        raise SparsityError(f"the state has format {state['format']}; this version reads {_FORMAT}")
    topologies, ever_active = [], []
    for layer in layers:
        topology, ever = _read_layer(layer, saved[layer.name])
        topologies.append(topology)
        ever_active.append(ever)
    overdue = _count(state, "overdue", least=-1)
    initial = _entry(state, "initial_nnz", list)
    if len(initial) != len(layers) or not all(isinstance(n, int) for n in initial):
        raise SparsityError(f"the state's 'initial_nnz' must be {len(layers)} integers")
    progress = Progress(
        seed=_entry(state, "seed", int),
        initial_nnz=list(initial),
        steps=_count(state, "steps"),
        overdue=None if overdue < 0 else overdue,
        history=_read_history(_entry(state, "history", Tensor), len(layers)),
    )
    _check_consistent(progress, topologies)
    return progress, topologies, ever_active


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


def _read_layer(layer: MaskedWeight, saved: object) -> tuple[Topology, Tensor]:
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
        active = unpack_bits(_entry(saved, "active", Tensor), old.n_units)
        ever = unpack_bits(_entry(saved, "ever_active", Tensor), old.n_units)
    except SparsityError as error:
        raise SparsityError(f"the state of {layer.name!r} is damaged: {error}") from error
    topology = Topology.from_active(active, shape, structure=old.structure)
    if topology.n_active != _count(saved, "n_active") or bool((active & ~ever).any()):
        raise SparsityError(
            f"the state of {layer.name!r} is damaged: {topology.n_active} units are active where "
            f"{saved['n_active']} were saved, or some were never active"
        )
    return topology.to(old.device), ever.to(old.device)


def _read_history(rows: Tensor, n: int) -> list[Rewiring]:
    if rows.dim() != 2 or rows.shape[1] != 1 + 3 * n or rows.dtype != torch.int64:
        raise SparsityError(
            f"the state's 'history' must be int64 of shape (rewirings, {1 + 3 * n}), "
            f"got {rows.dtype} {tuple(rows.shape)}"
        )
    return [
        Rewiring(
            row[0], tuple(row[1 : 1 + n]), tuple(row[1 + n : 1 + 2 * n]), tuple(row[1 + 2 * n :])
        )
        for row in rows.tolist()
    ]


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
