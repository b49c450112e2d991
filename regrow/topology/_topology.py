"""Topology: which units of one weight exist. Immutable; an update makes a new one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from regrow.errors import SparsityError
from regrow.topology._arguments import check_flags, check_shape, check_tensor, check_units
from regrow.topology._structure import Structure, check_counts, unit_size
from regrow.topology.structures import Unstructured
from regrow.typing import Shape


@dataclass(frozen=True, eq=False)
class TopologyDelta:
    """A decision, before anything is changed.

    Args:
        dropped: Unit indices (n,) int64, ascending, all active before.
        grown: Unit indices (m,) int64, ascending, none active before unless it is also in
            ``dropped``. A unit in both comes back at its initial value with fresh optimizer
            state; one that keeps its value is in neither.
    """

    dropped: Tensor
    grown: Tensor

    @property
    def is_empty(self) -> bool:
        """Whether the decision changes nothing."""
        return self.dropped.numel() == 0 and self.grown.numel() == 0


@final
class Topology:
    """The connections of one weight, explicit and never inferred from values.

    One boolean a unit is held; every other form is derived from it. Treat each tensor that is
    handed out as read-only: nothing in regrow writes to one.

    Args:
        units: Indices of the active units (n,), ascending int64.
        shape: Shape of the weight.
        structure: What a unit is; by default a single element.
        allowed: (n_units,) bool, the units that may ever be active: a region of the kernel (DSN),
            a sub-network of a task (AFAF); None: all.

    Raises:
        TypeError: ``units`` or ``allowed`` is no tensor, ``shape`` no tuple of integers, or
            ``structure`` no structure.
        SparsityError: ``units`` is not one-dimensional, ascending, free of repeats, in range and
            allowed, ``shape`` does not admit the structure, or a group has a number of active
            units that the structure rules out.

    Example:
        >>> topology = Topology(torch.tensor([0, 3]), (2, 2))
        >>> topology.nnz, topology.sparsity
        (2, 0.5)
        >>> topology.mask.tolist()
        [[True, False], [False, True]]
    """

    def __init__(
        self,
        units: Tensor,
        shape: Shape,
        *,
        structure: Structure | None = None,
        allowed: Tensor | None = None,
    ) -> None:
        structure = Unstructured() if structure is None else structure
        shape = check_shape(shape, structure)
        n_units = structure.n_units(shape)
        units = check_units(units, n_units)
        active = torch.zeros(n_units, dtype=torch.bool, device=units.device)
        active[units.to(torch.int64)] = True
        self._adopt(active, shape, structure, allowed=allowed, n_active=units.numel())
        self._check()

    @classmethod
    def from_active(
        cls,
        active: Tensor,
        shape: Shape,
        *,
        structure: Structure | None = None,
        allowed: Tensor | None = None,
    ) -> Topology:
        """A topology from one boolean a unit.

        Args:
            active: (n_units,) bool; kept, so hand it over.
            shape: Shape of the weight.
            structure: What a unit is; by default a single element.
            allowed: (n_units,) bool, the units that may ever be active; None: all. Kept.

        Raises:
            TypeError: An argument is of another type.
            SparsityError: Wrong dtype or number of units, a unit that is not allowed, or a count
                that the structure rules out.
        """
        structure = Unstructured() if structure is None else structure
        shape = check_shape(shape, structure)
        active = check_flags(active, "active", structure, shape)
        n_active = int(active.count_nonzero())
        topology = cls._of(active, shape, structure, allowed=allowed, n_active=n_active)
        topology._check()
        return topology

    @classmethod
    def from_mask(
        cls, mask: Tensor, *, structure: Structure | None = None, allowed: Tensor | None = None
    ) -> Topology:
        """A topology from a boolean tensor of the weight's shape.

        Args:
            mask: bool, any shape; True where a connection exists. Copied.
            structure: What a unit is; by default a single element.
            allowed: (n_units,) bool, the units that may ever be active; None: all. Kept.

        Raises:
            TypeError: An argument is of another type.
            SparsityError: Not boolean, a unit is neither wholly in nor wholly out or is not
                allowed, or a group has a count that the structure rules out.
        """
        structure = Unstructured() if structure is None else structure
        if check_tensor(mask, "mask").dtype != torch.bool:
            raise SparsityError(f"mask must be a bool tensor, got {mask.dtype}")
        shape = check_shape(tuple(mask.shape), structure)
        units = torch.arange(structure.n_units(shape), device=mask.device)
        by_unit = mask.reshape(-1)[structure.elements_of(units, shape)]
        active = by_unit.all(dim=1)
        if not torch.equal(active, by_unit.any(dim=1)):
            raise SparsityError(f"mask cuts through units of {structure}")
        return cls.from_active(active, shape, structure=structure, allowed=allowed)

    @classmethod
    def full(
        cls, shape: Shape, *, structure: Structure | None = None, device: torch.device | None = None
    ) -> Topology:
        """The topology in which every unit exists.

        Raises:
            TypeError: An argument is of another type.
            SparsityError: ``shape`` does not admit the structure, or the structure fixes a
                sparsity above 0.
        """
        structure = Unstructured() if structure is None else structure
        shape = check_shape(shape, structure)
        active = torch.ones(structure.n_units(shape), dtype=torch.bool, device=device)
        return cls.from_active(active, shape, structure=structure)

    @classmethod
    def _of(
        cls,
        active: Tensor,
        shape: Shape,
        structure: Structure,
        *,
        allowed: Tensor | None,
        n_active: int,
    ) -> Topology:
        self = cls.__new__(cls)
        self._adopt(active, shape, structure, allowed=allowed, n_active=n_active)
        return self

    def _adopt(
        self,
        active: Tensor,
        shape: Shape,
        structure: Structure,
        *,
        allowed: Tensor | None,
        n_active: int,
    ) -> None:
        self.active = active
        self.shape = shape
        self.structure = structure
        self.allowed = allowed
        self.n_active = n_active

    def _check(self) -> None:
        """Raise if an active unit is not allowed, or a group's count is ruled out."""
        if self.allowed is not None:
            check_flags(self.allowed, "allowed", self.structure, self.shape)
            if self.allowed.device != self.device:
                raise SparsityError(
                    f"allowed must be on {self.device} as the active units are, "
                    f"got {self.allowed.device}"
                )
            outside = (self.active & ~self.allowed).nonzero().squeeze(1)
            if outside.numel():
                raise SparsityError(
                    f"{outside.numel()} active units are not allowed: {outside[:5].tolist()} ..."
                )
        if self.structure.even_groups or self.structure.fixed_sparsity is not None:
            check_counts(self.structure, self.counts(), self.shape)

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.active.device

    @property
    def n_units(self) -> int:
        """Number of units, active or not."""
        return self.active.numel()

    @cached_property
    def room(self) -> Tensor:
        """The most active units that each group can hold (n_groups,) int64; read-only."""
        n_groups = self.structure.n_groups(self.shape)
        if self.allowed is None and n_groups == 1:
            return torch.tensor([self.n_units], device=self.device)
        return self._per_group(
            torch.arange(self.n_units, device=self.device)
            if self.allowed is None
            else self.allowed.nonzero().squeeze(1)
        )

    @property
    def n_allowed(self) -> int:
        """Number of units that may be active."""
        return self.n_units if self.allowed is None else int(self.allowed.count_nonzero())

    @property
    def free(self) -> Tensor:
        """Which units could be grown (n_units,) bool: allowed and not active."""
        return ~self.active if self.allowed is None else self.allowed & ~self.active

    @property
    def units(self) -> Tensor:
        """Active units (n_active,) int64, ascending."""
        return self.active.nonzero().squeeze(1)

    @property
    def indices(self) -> Tensor:
        """Active elements (nnz,) int64, ascending flat row-major positions."""
        return self.mask.reshape(-1).nonzero().squeeze(1)

    @cached_property
    def mask(self) -> Tensor:
        """Boolean tensor of the weight's shape, True where a connection exists; read-only."""
        if isinstance(self.structure, Unstructured):
            return self.active.view(self.shape)
        mask = torch.zeros(self.n_elements, dtype=torch.bool, device=self.device)
        mask[self.structure.elements_of(self.units, self.shape).reshape(-1)] = True
        return mask.view(self.shape)

    @property
    def n_elements(self) -> int:
        """Number of elements of the weight."""
        return torch.Size(self.shape).numel()

    @property
    def nnz(self) -> int:
        """Number of connections, counted."""
        return self.n_active * self.unit_size

    @property
    def unit_size(self) -> int:
        """Elements of one unit."""
        return unit_size(self.structure, self.shape)

    @property
    def sparsity(self) -> float:
        """Fraction of connections that do not exist, counted."""
        return 1.0 - self.nnz / self.n_elements

    def counts(self) -> Tensor:
        """Active units of each group (n_groups,) int64."""
        if self.structure.n_groups(self.shape) == 1:
            return torch.tensor([self.n_active], device=self.device)
        return self._per_group(self.units)

    def _per_group(self, units: Tensor) -> Tensor:
        groups = self.structure.group_of(units, self.shape)
        return torch.bincount(groups, minlength=self.structure.n_groups(self.shape))

    def to(self, device: torch.device | str) -> Topology:
        """The same topology on another device."""
        if torch.device(device) == self.device:
            return self
        allowed = None if self.allowed is None else self.allowed.to(device)
        return Topology._of(
            self.active.to(device),
            self.shape,
            self.structure,
            allowed=allowed,
            n_active=self.n_active,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Topology):
            return NotImplemented
        same_kind = self.shape == other.shape and self.structure == other.structure
        other = other.to(self.device)
        return (
            same_kind
            and torch.equal(self.active, other.active)
            and _same_flags(self.allowed, other.allowed)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        allowed = "" if self.allowed is None else f", n_allowed={self.n_allowed}"
        return (
            f"Topology(shape={self.shape}, structure={self.structure}, nnz={self.nnz}, "
            f"sparsity={self.sparsity:.4g}{allowed})"
        )


def apply(topology: Topology, delta: TopologyDelta) -> Topology:
    """The topology after a decision.

    Args:
        topology: The topology the decision was made on; unchanged.
        delta: Units to drop and to grow.

    Returns:
        A new topology.

    Raises:
        TypeError: The decision holds something else than tensors.
        SparsityError: An index is out of range, repeated or out of order, a dropped unit is
            absent, a grown one is present and not dropped, or not allowed, or a group ends with a
            count that the structure rules out.

    Example:
        >>> before = Topology(torch.tensor([0, 3]), (2, 2))
        >>> apply(before, TopologyDelta(torch.tensor([0]), torch.tensor([1]))).units.tolist()
        [1, 3]
    """
    for argument, units in (("dropped", delta.dropped), ("grown", delta.grown)):
        check_units(units, topology.n_units, argument)
    active = topology.active.clone()
    if not bool(active[delta.dropped].all()):
        absent = delta.dropped[~active[delta.dropped]][:5].tolist()
        raise SparsityError(f"cannot drop units that are not active: {absent} ...")
    active[delta.dropped] = False
    if bool(active[delta.grown].any()):
        present = delta.grown[active[delta.grown]][:5].tolist()
        raise SparsityError(f"cannot grow units that are active and not dropped: {present} ...")
    active[delta.grown] = True
    new = Topology._of(
        active,
        topology.shape,
        topology.structure,
        allowed=topology.allowed,
        n_active=topology.n_active - delta.dropped.numel() + delta.grown.numel(),
    )
    new._check()
    return new


def _same_flags(a: Tensor | None, b: Tensor | None) -> bool:
    return torch.equal(a, b) if a is not None and b is not None else a is b
