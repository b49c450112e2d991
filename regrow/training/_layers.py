"""MaskedWeight: a plain parameter with a topology."""

from __future__ import annotations

from typing import final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from regrow._names import Owned
from regrow._sharding import flat_mask, is_sharded, local, local_part, whole
from regrow.errors import SparsityError
from regrow.topology import Topology, TopologyDelta, derived_generator
from regrow.training._lifetimes import Lifetimes
from regrow.training._optimizer_state import reset_state
from regrow.training._recorded import RecordedGradient
from regrow.typing import SparseLayer


@final
class MaskedWeight(SparseLayer):
    """A dense parameter whose inactive entries are held at zero.

    The parameter stays what it was, where it was and under its own name; ``.grad`` is dense until
    it is masked. Written to by mask only: a flat write through ``reshape`` changes a copy where
    the weight is ``channels_last``.

    A parameter that ``fully_shard`` split is masked part by part, and gathered to be read: while a
    rewiring is decided, each rank holds one layer's weight or gradient whole, besides the scores
    and positions of all active units (12 bytes each). Its topology and their past, two bytes a unit
    and four an active unit, are held whole by every rank; the mask that is applied is split.

    Args:
        name: Canonical name of the parameter.
        parameter: The weight, of any floating dtype and memory format, sharded or not.
        topology: On the parameter's device.
    """

    grad_is_local = False

    def __init__(self, name: str, parameter: nn.Parameter, topology: Topology) -> None:
        self.name = name
        self.parameter = parameter
        self.topology = topology
        self.lifetimes = Lifetimes(topology)
        self.dense_grad: Tensor | None = None
        self._generator: torch.Generator | None = None
        self._dead = self._dead_of(topology)
        self._version = parameter._version

    def _dead_of(self, topology: Topology) -> Tensor:
        """Inactive places, with the weight's strides: elementwise work on both is then fastest."""
        if is_sharded(self.parameter):
            return local_part(~topology.mask, self.parameter)
        laid_out = torch.empty_like(self.parameter, dtype=torch.bool, requires_grad=False)
        return torch.logical_not(topology.mask, out=laid_out)

    @property
    def generator(self) -> torch.Generator:
        """The generator of the rewiring that is being decided."""
        if self._generator is None:
            raise RuntimeError(f"layer {self.name!r} is not in a rewiring: no generator yet")
        return self._generator

    @property
    def has_grad(self) -> bool:
        """Whether this step's dense gradient is at hand."""
        return self.dense_grad is not None

    def watch(self) -> None:
        """Nothing to do: ``.grad`` is the dense gradient until it is masked."""

    def unwatch(self) -> None:
        """Nothing to do."""

    def kept_for_growth(self) -> list[Tensor]:
        """Nothing beside ``.grad``."""
        return []

    def keep_dense_grad(
        self, *, copy: bool, group: dist.ProcessGroup | None = None
    ) -> Tensor | None:
        """The dense gradient of the step, complete; None where there was none.

        Args:
            copy: Whether the optimizer steps before it is read, so that ``.grad`` is masked.
            group: Not needed: the loop has averaged it over ranks.
        """
        del group
        grad = self.parameter.grad
        if grad is None:
            return None
        # With fused=True a GradScaler leaves the unscaling to the optimizer's kernel.
        scale = getattr(self.optimizer, "grad_scale", None)
        dense: Tensor = grad.detach()
        if scale is not None:
            dense = dense / scale
        elif copy:
            dense = dense.clone()
        return dense

    def begin(self, seed: int, step: int, dense_grad: Tensor | RecordedGradient | None) -> None:
        """Provide what one rewiring may look at; ``end`` lets go of it."""
        self._generator = derived_generator(seed, step, self.name)
        self.dense_grad = dense_grad if isinstance(dense_grad, Tensor) else None

    def end(self) -> None:
        """Let go of the gradient and the generator."""
        self._generator = None
        self.dense_grad = None

    @property
    def holds_dense(self) -> bool:
        """Dense storage: whole layers are read without a gather."""
        return True

    def weight_at(self, flat: Tensor) -> Tensor:
        """Weights at flat positions (n,) -> (n,), in the parameter's dtype."""
        return whole(self.parameter.detach()).reshape(-1)[flat]

    def grad_at(self, flat: Tensor) -> Tensor:
        """Dense gradient at flat positions (n,) -> (n,); zeros where this step gave none.

        Raises:
            RuntimeError: Not in a rewiring.
        """
        if self._generator is None:
            raise RuntimeError(f"layer {self.name!r} is not in a rewiring: no gradient is at hand")
        if self.dense_grad is None:
            return torch.zeros_like(self.weight_at(flat))
        return whole(self.dense_grad).reshape(-1)[flat]

    def ever_active_at(self, flat: Tensor) -> Tensor:
        """Whether the unit of each flat position (n,) was ever active -> (n,) bool."""
        unit = self.topology.structure.unit_of(flat, self.topology.shape)
        return self.lifetimes.ever_active[unit]

    def state_at(self, key: str, flat: Tensor) -> Tensor:
        """Optimizer state at flat positions (n,) -> (n,).

        Raises:
            KeyError: The optimizer holds no such state of the weight's shape.
        """
        optimizer = self.optimizer
        value = optimizer.state.get(self.parameter, {}).get(key) if optimizer else None
        if not torch.is_tensor(value) or value.shape != self.parameter.shape:
            raise KeyError(f"the optimizer holds no state {key!r} for {self.name!r}")
        return whole(value).reshape(-1)[flat]

    optimizer: Optimizer | None = None

    @torch.no_grad()
    def mask_grad(self) -> None:
        """Zero the gradient of inactive entries, in place; inf and NaN leave no trace."""
        if self.parameter.grad is not None:
            local(self.parameter.grad).masked_fill_(self._dead, 0.0)

    @torch.no_grad()
    def enforce(self, optimizer: Optimizer | None) -> None:
        """Inactive weights to zero, their optimizer state to fresh."""
        self._fill(self._dead, optimizer)
        self._version = self.parameter._version

    @torch.no_grad()
    def check_untouched(self) -> None:
        """Raise if somebody wrote to inactive weights since they were last enforced.

        The version that torch counts tells for nothing that nobody wrote at all; of a sharded
        weight it says nothing.

        Raises:
            SparsityError: Names the weight and what was probably forgotten.
        """
        if is_sharded(self.parameter) or self.parameter._version == self._version:
            return
        n = int((self.parameter != 0).logical_and_(self._dead).count_nonzero())
        if n:
            raise SparsityError(
                f"{n:,} weights of {self.name!r} outside its topology are not zero: something "
                "wrote to them since the last step. Behind model.load_state_dict(...) load the "
                "updater too, updater.load_state_dict(...); weights to start from are loaded "
                "before the method is called; where it was meant, zero them with "
                f"weight.mul_(updater.topologies[{self.name!r}].mask)"
            )

    @torch.no_grad()
    def commit(self, new: Topology, delta: TopologyDelta, optimizer: Optimizer | None) -> None:
        """Make ``new`` the topology.

        What is newly grown was at zero with fresh state already, as every inactive entry is; so
        only what was dropped, for good or to start again, is written to.

        Args:
            new: The topology after ``delta``.
            delta: The decision.
            optimizer: The one that steps this weight.
        """
        elements = new.structure.elements_of(delta.dropped, new.shape).reshape(-1)
        if is_sharded(self.parameter):
            dropped = local_part(flat_mask(new.shape, elements), self.parameter)
            self._fill(dropped, optimizer)
        else:
            self._fill(elements, optimizer)
        self.adopt(new)

    def _fill(self, where: Tensor, optimizer: Optimizer | None) -> None:
        """Weights to zero and their state to fresh, at flat positions or in a local mask."""

        def fill(tensor: Tensor, value: float) -> None:
            if where.dtype == torch.bool:
                local(tensor).masked_fill_(where, value)
            else:
                _fill_at(tensor, where, value)

        fill(self.parameter, 0.0)
        if optimizer is not None:
            reset_state(optimizer, self.parameter, fill)

    def adopt(self, topology: Topology) -> None:
        """Take a topology over without touching weights or state."""
        self.topology = topology
        self._dead = self._dead_of(topology)

    @torch.no_grad()
    def align_copy(self, copy: Owned) -> None:
        """Zero the inactive entries of an averaged copy of the weight."""
        tensor = copy.parameter
        local(tensor).masked_fill_(self._dead.to(tensor.device), 0.0)


def _fill_at(tensor: Tensor, flat: Tensor, value: float) -> None:
    """Write ``value`` at flat row-major positions, whatever the memory format."""
    if tensor.is_contiguous():
        tensor.view(-1).index_fill_(0, flat, value)
    else:
        tensor[torch.unravel_index(flat, tensor.shape)] = value
