"""What an updater's state says of one layer, masked or truly sparse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from regrow.errors import SparsityError
from regrow.topology import Topology, pack_bits, structure_tag, unpack_bits
from regrow.training._compact import CompactWeight, digest_of
from regrow.training._entries import entry, integer, integers, refuse, tensor
from regrow.training._layer import Layer
from regrow.training._layers import MaskedWeight
from regrow.typing import StateDict

if TYPE_CHECKING:
    from regrow.training._progress import Rewiring

_WIDTHS = (torch.uint8, torch.int16, torch.int32)
_N_DIGEST = 16


def write_layer(layer: Layer) -> StateDict:
    """A layer's entry. A truly sparse one's topology is in the model's state; here its checksum."""
    topology = layer.topology
    state: StateDict = {
        "shape": list(topology.shape),
        "structure": structure_tag(topology.structure),
        "n_active": topology.n_active,
    }
    if isinstance(layer, CompactWeight):
        return state | {"digest": torch.tensor(list(digest_of(topology)), dtype=torch.uint8)}
    past = layer.lifetimes
    state["active"] = pack_bits(topology.active)
    state["ever_active"] = pack_bits(past.ever_active)
    state["born"] = _narrow(past.born.cpu())
    if topology.allowed is not None:
        state["allowed"] = pack_bits(topology.allowed)
    return state


def _narrow(counts: Tensor) -> Tensor:
    """The same whole numbers in as few bytes as hold them: a run has few rewirings."""
    largest = int(counts.max()) if counts.numel() else 0
    return counts.to(next(t for t in _WIDTHS if largest <= torch.iinfo(t).max))


@final
@dataclass(frozen=True, eq=False)
class SavedMasked:
    """Of a masked layer, on the layer's device."""

    layer: MaskedWeight
    topology: Topology
    ever_active: Tensor
    born: Tensor

    @property
    def nnz(self) -> int:
        """Connections."""
        return self.topology.nnz

    def restore(self) -> None:
        """Give it to the layer."""
        self.layer.adopt(self.topology)
        self.layer.lifetimes.restore(self.ever_active, self.born)
        self.layer.enforce(self.layer.optimizer)


@final
@dataclass(frozen=True, eq=False)
class SavedCompact:
    """Of a truly sparse layer: what the model's own state must bring."""

    layer: CompactWeight
    nnz: int
    digest: bytes

    def restore(self) -> None:
        """Give it to the layer."""
        self.layer.expect(self.digest)


SavedLayer = SavedMasked | SavedCompact


def read_layer(layer: Layer, saved: object, history: Sequence[Rewiring], index: int) -> SavedLayer:
    """Check a layer's entry against the layer, and read it.

    Args:
        layer: The layer it is for.
        saved: What ``write_layer`` made.
        history: Rewirings done.
        index: Of the layer in them.

    Raises:
        SparsityError: Something is missing, damaged, or of another layer.
    """
    old = layer.topology
    _check_kind(saved, old, layer.name)
    if isinstance(layer, CompactWeight):
        return _read_compact(layer, saved)
    refuse(saved, "digest", f"{layer.name!r} is masked here and was truly sparse when it was saved")
    try:
        topology, ever = _read_topology(saved, old)
        born = _read_born(saved, topology, [record.n_grown[index] for record in history])
    except SparsityError as error:
        raise SparsityError(f"the state of {layer.name!r} is damaged: {error}") from error
    return SavedMasked(layer, topology.to(old.device), ever.to(old.device), born.to(old.device))


def _read_compact(layer: CompactWeight, saved: object) -> SavedCompact:
    refuse(saved, "active", f"{layer.name!r} is truly sparse here and was masked when it was saved")
    most = layer.topology.n_units
    digest = tensor(saved, "digest")
    if digest.dtype != torch.uint8 or tuple(digest.shape) != (_N_DIGEST,):
        raise SparsityError(
            f"the state of {layer.name!r} is damaged: 'digest' must be {_N_DIGEST} bytes"
        )
    nnz = integer(saved, "n_active", most=most) * layer.topology.unit_size
    return SavedCompact(layer, nnz, bytes(digest.tolist()))


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
