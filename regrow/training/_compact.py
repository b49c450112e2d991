"""CompactWeight: the weight of a truly sparse layer, values and indices."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, cast, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from regrow._resize import resize
from regrow.errors import SparsityError
from regrow.topology import (
    Topology,
    TopologyDelta,
    are_all,
    derived_generator,
    locate,
    positions_between,
)
from regrow.training._optimizer_state import move_state
from regrow.training._recorded import RecordedGradient
from regrow.typing import SparseLayer

if TYPE_CHECKING:
    from regrow._names import Owned

_log = logging.getLogger(__name__)


class Holder(Protocol):
    """What a truly sparse module gives; ``regrow.nn.SparseModule`` does."""

    values: nn.Parameter
    topology: Topology

    def adopt(self, topology: Topology) -> None:
        """Take over a topology."""

    def watch(self, owner: object) -> None:
        """Keep inputs and output gradients from now on, as long as the owner lives."""

    def unwatch(self) -> None:
        """Keep them no longer."""

    @property
    def watched(self) -> list[tuple[object, Tensor]]:
        """(input, output gradient) of each backward pass."""

    def grad_rows(self, x: object, dy: Tensor, first: int, last: int) -> Tensor:
        """Rows of the dense weight gradient."""


@final
class CompactWeight(SparseLayer):
    """Values (nnz,) whose topology is the module's own.

    Nothing of the dense size is allocated, ever. Of a step that owes a rewiring by gradient the
    module keeps its inputs and output gradients, and scores are computed from them in blocks
    (``RecordedGradient``). The past of units, what was ever active and since when, is not kept: it
    would be larger than the weight.

    Args:
        name: Canonical name of the weight it stands for, such as ``fc.weight``.
        holders: The modules that hold the values, more than one where they are tied.
    """

    grad_is_local = False
    lifetimes = None

    def __init__(self, name: str, holders: Sequence[Holder]) -> None:
        self.name = name
        self.optimizer: Optimizer | None = None
        self._holders = list(holders)
        self._generator: torch.Generator | None = None
        self._gradient: RecordedGradient | None = None
        self._known: Topology | None = self.topology
        self._digest = b""

    @property
    def parameter(self) -> nn.Parameter:
        """The values."""
        return self._holders[0].values

    @property
    def topology(self) -> Topology:  # type: ignore[override]  # the module's, and set there
        """The module's topology."""
        return self._holders[0].topology

    # -- what criteria see -------------------------------------------------------------------

    @property
    def generator(self) -> torch.Generator:
        """The generator of the rewiring that is being decided."""
        if self._generator is None:
            raise RuntimeError(f"layer {self.name!r} is not in a rewiring: no generator yet")
        return self._generator

    @property
    def has_grad(self) -> bool:
        """Whether this step's dense gradient is at hand."""
        return self._gradient is not None

    @property
    def holds_dense(self) -> bool:
        """Whole layers are never read."""
        return False

    def weight_at(self, flat: Tensor | slice) -> Tensor:
        """Weights at flat positions (n,) -> (n,), or of a run of them; zero without connection."""
        return self._at(self.parameter.detach(), flat)

    def _at(self, values: Tensor, flat: Tensor | slice) -> Tensor:
        topology = self.topology
        if isinstance(flat, slice):
            low, high, _ = flat.indices(topology.n_elements)
            first, positions = positions_between(topology, low, high)
            found = values.new_zeros(high - low)
            found[positions.sub_(low)] = values[first : first + positions.numel()]
            return found
        if are_all(topology, flat):
            return values
        if not topology.nnz:
            return values.new_zeros(flat.shape)
        places, there = locate(topology, flat)
        return values[places].masked_fill_(~there, 0)

    def grad_at(self, flat: Tensor | slice) -> Tensor:
        """Dense gradient at flat positions (n,) -> (n,), or of a run of them; else zeros.

        Raises:
            RuntimeError: Not in a rewiring.
        """
        if self._generator is None:
            raise RuntimeError(f"layer {self.name!r} is not in a rewiring: no gradient is at hand")
        if isinstance(flat, slice):
            low, high, _ = flat.indices(self.topology.n_elements)
            if self._gradient is None:
                return self.parameter.new_zeros(high - low)
            return self._gradient.between(low, high)
        if self._gradient is None:
            return self.parameter.new_zeros(flat.shape)
        return self._gradient.at(flat)

    def ever_active_at(self, flat: Tensor) -> Tensor:
        """Not known of a truly sparse layer.

        Raises:
            SparsityError: Always.
        """
        del flat
        raise SparsityError(no_past(self.name))

    def state_at(self, key: str, flat: Tensor) -> Tensor:
        """Optimizer state at flat positions (n,) -> (n,); zero where there is no connection.

        Raises:
            KeyError: The optimizer holds no such state of the values' shape.
        """
        value = self.optimizer.state.get(self.parameter, {}).get(key) if self.optimizer else None
        if not torch.is_tensor(value) or value.shape != self.parameter.shape:
            raise KeyError(f"the optimizer holds no state {key!r} for {self.name!r}")
        return self._at(value, flat)

    # -- what the updater drives -------------------------------------------------------------

    def watch(self) -> None:
        """The coming step owes a rewiring that reads the dense gradient."""
        for holder in self._holders:
            holder.watch(self)

    def unwatch(self) -> None:
        """It does not."""
        for holder in self._holders:
            holder.unwatch()

    def kept_for_growth(self) -> list[Tensor]:
        """Inputs and output gradients that the dense gradient would be computed from."""
        pairs = (pair for holder in self._holders for pair in holder.watched)
        return [one for pair in pairs for one in pair if isinstance(one, Tensor)]

    def keep_dense_grad(
        self, *, copy: bool, group: dist.ProcessGroup | None = None
    ) -> RecordedGradient | None:
        """The dense gradient of the step, complete; None where there was none.

        Args:
            copy: Not needed: the optimizer does not write to what is kept.
            group: Whose ranks' gradients are averaged.
        """
        del copy
        grad = self.parameter.grad
        passes = [(h.grad_rows, x, dy) for h in self._holders for x, dy in h.watched]
        if grad is None:
            return None
        if not passes and group is None:  # (of several ranks one may have had no pass)
            _log.warning("%s has a gradient, and no pass that gave it was seen", self.name)
            return None
        scale = getattr(self.optimizer, "grad_scale", None)
        scale = 1.0 if scale is None else scale
        return RecordedGradient(self.name, passes, self.topology, grad, scale=scale, group=group)

    def begin(self, seed: int, step: int, dense_grad: Tensor | RecordedGradient | None) -> None:
        """Provide what one rewiring may look at; ``end`` lets go of it."""
        self._generator = derived_generator(seed, step, self.name)
        self._gradient = dense_grad if isinstance(dense_grad, RecordedGradient) else None

    def end(self) -> None:
        """Let go of the gradient and the generator."""
        self._generator = None
        self._gradient = None

    def mask_grad(self) -> None:
        """Nothing to do: there is no gradient but that of connections."""

    def enforce(self, optimizer: Optimizer | None) -> None:
        """Nothing to do: there is no weight but those of connections."""

    def check_untouched(self) -> None:
        """Raise if the model was loaded and its updater was not, or the other way round.

        Raises:
            SparsityError: Names the weight.
        """
        found, known = self.topology, self._known
        if found is known:
            return
        if found != known if known is not None else digest_of(found) != self._digest:
            raise SparsityError(
                f"the topology of {self.name!r} is not the one that the updater knows: load the "
                "states of the model, its optimizers and its updater that were saved together"
            )
        self._known = found

    def expect(self, digest: bytes) -> None:
        """What the topology that the model has by the next step must be like."""
        self._known, self._digest = None, digest

    @torch.no_grad()
    def commit(self, new: Topology, delta: TopologyDelta, optimizer: Optimizer | None) -> None:
        """Make ``new`` the topology; values, gradient and optimizer state move along.

        Where the number of connections changes they are resized, and the parameter stays the same
        object. Grown connections begin at zero with fresh state; their gradient is that of the
        step, as far as it is at hand.

        Args:
            new: The topology after ``delta``, compact.
            delta: The decision.
            optimizer: The one that steps the values.
        """
        old, parameter, grad = self.topology, self.parameter, self.parameter.grad
        # Products' derived forms of the old layout go first, to make room.
        for holder in self._holders:
            holder.adopt(new)
        carry = _carrier(old, new)
        elements = _elements(new, delta.grown)
        grown, _ = locate(new, elements)
        again = grown[old.is_active(delta.grown).repeat_interleave(old.unit_size)]

        def move(tensor: Tensor, fill: float, *, anew: bool = True) -> Tensor:
            carried = carry(tensor, fill)
            if anew:
                carried[again] = fill
            return tensor.copy_(carried) if carried.shape == tensor.shape else carried

        if optimizer is not None:
            move_state(optimizer, parameter, move)
        moved = None if grad is None else move(grad, 0.0, anew=False)
        if moved is not None and self._gradient is not None and grown.numel():
            moved[grown] = self._gradient.at(elements)
        values = move(parameter.data, 0.0)
        if values.shape != parameter.shape:
            resize(parameter, values)
            parameter.grad = moved
        self._known = self.topology

    @torch.no_grad()
    def align_copy(self, copy: Owned) -> None:
        """Move the values of an averaged copy of the layer to the current topology."""
        holders = [cast("Holder", module) for _, module, _ in copy.owners]
        old, new = holders[0].topology, self.topology.to(copy.parameter.device)
        if old == new:
            return
        resize(copy.parameter, _carrier(old, new)(copy.parameter.data, 0.0))
        for holder in holders:
            holder.adopt(new)


def _carrier(old: Topology, new: Topology) -> Callable[[Tensor, float], Tensor]:
    """The function (values of ``old``, value of what is new) -> values of ``new``."""
    # On first use: the operations bring along what a masked training has no need of.
    from regrow.ops import CSR, carry_values

    before, after = CSR.of(old), CSR.of(new)
    return lambda values, fill: carry_values(before, values, after, fill=fill)


def _elements(topology: Topology, units: Tensor) -> Tensor:
    """The elements of some units, unit by unit (n,) int64."""
    return topology.structure.elements_of(units.to(torch.int64), topology.shape).reshape(-1)


def no_past(name: str) -> str:
    """Why a criterion that asks for the past cannot run."""
    return (
        f"what was ever active is not kept of {name!r}: that would be larger than a truly sparse "
        "layer itself; keep it masked, or use a criterion without never_active"
    )


def digest_of(topology: Topology) -> bytes:
    """A checksum of the connections."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in topology.csr:
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.digest()
