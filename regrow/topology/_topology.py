"""Topology: which units of one weight exist. Immutable; an update makes a new one."""

from __future__ import annotations

from functools import cached_property
from typing import final

import torch
from torch import Tensor

from regrow.errors import SparsityError
from regrow.topology._arguments import (
    check_allowed,
    check_flags,
    check_shape,
    check_tensor,
    check_units,
    same_flags,
)
from regrow.topology._groups import per_group, room_of
from regrow.topology._lookup import are_active
from regrow.topology._rows import Rows, check_rows, fits_rows
from regrow.topology._structure import Structure, check_counts, unit_size
from regrow.topology.structures import Unstructured
from regrow.typing import Shape


@final
class Topology:
    """The connections of one weight, explicit and never inferred from values.

    One boolean a unit is held or, in the compact form of truly sparse layers, an int32 column a
    connection; every other form is derived from it. Both forms say the same and compare as equal.
    Treat each tensor that is handed out as read-only: nothing in regrow writes to one.

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

    shape: Shape
    structure: Structure
    n_active: int
    allowed: Tensor | None
    _active: Tensor | None
    _rows: Rows | None

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
        units = check_units(units, structure.n_units(shape))
        flags = torch.zeros(structure.n_units(shape), dtype=torch.bool, device=units.device)
        flags[units.to(torch.int64)] = True
        n = units.numel()
        self._of(shape, structure, active=flags, allowed=allowed, n_active=n, into=self)
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
        topology = cls._of(shape, structure, active=active, allowed=allowed, n_active=n_active)
        topology._check()
        return topology

    @classmethod
    def from_csr(
        cls, row_ptr: Tensor, columns: Tensor, shape: Shape, *, structure: Structure | None = None
    ) -> Topology:
        """A compact topology from compressed rows of the weight as a matrix (shape[0], the rest).

        Args:
            row_ptr: (shape[0] + 1,) int64; row r has the connections row_ptr[r] to row_ptr[r + 1].
                Kept, so hand it over.
            columns: (nnz,) int32, ascending within each row. Kept.
            shape: Shape of the weight.
            structure: What a unit is; by default a single element.

        Raises:
            TypeError: An argument is of another type.
            SparsityError: The tensors do not describe a weight of this shape, a unit is neither
                wholly in nor wholly out, or a group has a count that the structure rules out.

        Example:
            >>> columns = torch.tensor([0, 1, 2], dtype=torch.int32)
            >>> topology = Topology.from_csr(torch.tensor([0, 1, 3]), columns, (2, 3))
            >>> topology.mask.int().tolist()
            [[1, 0, 0], [0, 1, 1]]
        """
        structure = Unstructured() if structure is None else structure
        shape = check_shape(shape, structure)
        return cls._of_rows(check_rows(row_ptr, columns, shape), shape, structure)

    @classmethod
    def _of_rows(cls, rows: Rows, shape: Shape, structure: Structure) -> Topology:
        n_active, left = divmod(rows.columns.numel(), unit_size(structure, shape))
        self = cls._of(shape, structure, rows=rows, n_active=n_active)
        if self.unit_size > 1 and not left:
            left = int(self._sorted_units().view(-1, self.unit_size).diff(dim=1).any())
        if left:
            raise SparsityError(f"the connections cut through units of {structure}")
        self._check()
        return self

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
        shape: Shape,
        structure: Structure,
        *,
        n_active: int,
        active: Tensor | None = None,
        rows: Rows | None = None,
        allowed: Tensor | None = None,
        into: Topology | None = None,
    ) -> Topology:
        self = cls.__new__(cls) if into is None else into
        self.shape = shape
        self.structure = structure
        self.n_active = n_active
        self.allowed = allowed
        self._active = active
        self._rows = rows
        return self

    def _sorted_units(self) -> Tensor:
        """The unit of every connection, sorted (nnz,)."""
        return self.structure.unit_of(self.indices, self.shape).sort().values

    def _check(self) -> None:
        """Raise if an active unit is not allowed, or a group's count is ruled out."""
        if self.allowed is not None:
            check_allowed(self.allowed, self.active, self.structure, self.shape)
        if self.structure.even_groups or self.structure.fixed_sparsity is not None:
            check_counts(self.structure, self.counts(), self.shape)

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        held = self._active if self._rows is None else self._rows.columns
        return held.device  # type: ignore[union-attr]

    @property
    def is_compact(self) -> bool:
        """Whether connections are held as compressed rows, not as one boolean a unit."""
        return self._rows is not None

    def compact(self) -> Topology:
        """The same topology as compressed rows: four bytes a connection.

        Raises:
            SparsityError: Units are restricted by ``allowed``, which takes one boolean a unit, or
                the weight is too large for int32 columns.
        """
        if self.is_compact:
            return self
        if self.allowed is not None:
            raise SparsityError(
                f"a compact topology has no allowed= units; this one allows {self.n_allowed} of "
                f"{self.n_units}: keep the weight masked"
            )
        if not fits_rows(self.shape):
            raise SparsityError(f"a weight of shape {self.shape} is too large for int32 columns")
        rows = Rows.of(self.indices, self.shape)
        return Topology._of(self.shape, self.structure, rows=rows, n_active=self.n_active)

    @property
    def csr(self) -> tuple[Tensor, Tensor]:
        """``row_ptr`` (shape[0] + 1,) int64 and ``columns`` (nnz,) int32 of the weight as a matrix.

        Held by a compact topology, computed at each call by another.
        """
        rows = Rows.of(self.indices, self.shape) if self._rows is None else self._rows
        return rows.row_ptr, rows.columns

    @property
    def active(self) -> Tensor:
        """One boolean a unit (n_units,); made at each call where the topology is compact."""
        if self._active is not None:
            return self._active
        active = torch.zeros(self.n_units, dtype=torch.bool, device=self.device)
        active[self.units] = True
        return active

    def is_active(self, units: Tensor) -> Tensor:
        """Whether each of the units (n,) int64 is active -> (n,) bool."""
        return are_active(self, units) if self._active is None else self._active[units]

    @property
    def n_units(self) -> int:
        """Number of units, active or not."""
        return self.structure.n_units(self.shape)

    @cached_property
    def room(self) -> Tensor:
        """The most active units that each group can hold (n_groups,) int64; read-only."""
        return room_of(self.structure, self.shape, self.allowed, self.device)

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
        """Active units (n_active,) int64, ascending; made at each call."""
        if self._active is not None:
            return self._active.nonzero().squeeze(1)
        if isinstance(self.structure, Unstructured):
            return self.indices
        return self._sorted_units()[:: self.unit_size].contiguous()

    @property
    def indices(self) -> Tensor:
        """Active elements (nnz,) int64, ascending flat row-major positions."""
        if self._rows is not None:
            return self._rows.positions(self.shape)
        return self.mask.reshape(-1).nonzero().squeeze(1)

    @cached_property
    def _mask(self) -> Tensor:
        if isinstance(self.structure, Unstructured):
            return self.active.view(self.shape)
        mask = torch.zeros(self.n_elements, dtype=torch.bool, device=self.device)
        mask[self.structure.elements_of(self.units, self.shape).reshape(-1)] = True
        return mask.view(self.shape)

    @property
    def mask(self) -> Tensor:
        """Boolean tensor of the weight's shape, True where a connection exists; read-only.

        Made at each call, and not kept, where the topology is compact.
        """
        if self._rows is None:
            return self._mask
        mask = torch.zeros(self.n_elements, dtype=torch.bool, device=self.device)
        mask[self.indices] = True
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
        return per_group(self.structure, self.shape, self.units)

    def to(self, device: torch.device | str) -> Topology:
        """The same topology on another device."""
        if torch.device(device) == self.device:
            return self
        return Topology._of(
            self.shape,
            self.structure,
            n_active=self.n_active,
            active=None if self._active is None else self._active.to(device),
            rows=None if self._rows is None else self._rows.to(device),
            allowed=None if self.allowed is None else self.allowed.to(device),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Topology):
            return NotImplemented
        mine, theirs = ((one.shape, one.structure, one.n_active) for one in (self, other))
        if mine != theirs:
            return False
        other = other.to(self.device)
        return self._same_units(other) and same_flags(self.allowed, other.allowed)

    def _same_units(self, other: Topology) -> bool:
        if self._active is not None and other._active is not None:
            return torch.equal(self._active, other._active)
        if self._rows is not None and other._rows is not None:
            return self._rows.same(other._rows)
        return torch.equal(self.indices, other.indices)

    def __deepcopy__(self, memo: dict[int, object]) -> Topology:
        # Immutable: a copied model can share it.
        return self

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        allowed = "" if self.allowed is None else f", n_allowed={self.n_allowed}"
        return (
            f"Topology(shape={self.shape}, structure={self.structure}, nnz={self.nnz}, "
            f"sparsity={self.sparsity:.4g}{allowed})"
        )
