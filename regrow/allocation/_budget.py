"""Fractions to whole numbers of units that a model can hold."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import final

from regrow._checks import check_choice, check_fraction, check_is_structure
from regrow.allocation._rules import (
    RULES,
    Allocation,
    Explicit,
    Shapes,
    Sparsities,
    fixes_sparsity,
)
from regrow.errors import InfeasibleSparsityError, SparsityError
from regrow.topology import Structure, Unstructured


def allocate(
    shapes: Shapes, sparsity: float | None, rule: Allocation | str = "erdos_renyi_kernel"
) -> Sparsities:
    """Spread a sparsity over layers, as real numbers.

    Args:
        shapes: Name -> shape of each weight that shall be sparse, in the order of the model.
        sparsity: Fraction in [0, 1) of zeros over all of them; None where the rule fixes it.
        rule: An allocation such as ``erdos_renyi_kernel()``, or the name of one.

    Returns:
        Name -> sparsity in [0, 1).

    Raises:
        ValueError: ``sparsity`` is out of range, or the rule's name unknown.
        SparsityError: The rule cannot meet it.

    Example:
        >>> allocate({"a": (10, 10), "b": (100, 100)}, 0.5, "uniform")
        {'a': 0.5, 'b': 0.5}
    """
    if isinstance(rule, str):
        rule = RULES[check_choice(rule, "rule", RULES)]()
    wanted = None if sparsity is None else check_fraction(sparsity, "sparsity")
    empty = [name for name, shape in shapes.items() if math.prod(shape) == 0]
    if empty:
        raise SparsityError(f"shapes names weights without elements: {', '.join(empty)}")
    return rule(shapes, wanted)


def n_active(n_units: int, sparsity: float) -> int:
    """How many of ``n_units`` a sparsity leaves, to the nearest whole number."""
    return round(n_units * (1 - sparsity))


def allocate_counts(
    shapes: Shapes,
    sparsity: float | None,
    rule: Allocation,
    *,
    structure: Structure | Mapping[str, Structure] | None = None,
) -> dict[str, int]:
    """Spread a sparsity over layers, as whole numbers of active units.

    Each layer is within one step of its own real-valued share (largest remainders, ties to the
    earlier layer), and the total within half of the largest step of the budget: as near as whole
    units come, where all are of one size. A step is a unit, or one unit for each group where the
    structure makes groups even. For ER and ERK that share is solved without the floors of
    ``allocate``, which can differ from it by a little more.

    Args:
        shapes: Name -> shape of each weight.
        sparsity: Fraction in [0, 1) of zeros over all of them, or over the others where the
            structure of some fixes theirs; None where the rule or the structure fixes it.
        rule: The allocation; without effect on layers whose structure fixes their sparsity. Those
            that ``explicit`` gives a topology have the units of that topology.
        structure: What a unit is, for all layers or name by name; by default a single element.

    Returns:
        Name -> active units, at least 1 each.

    Raises:
        InfeasibleSparsityError: A layer would get no unit at all; the message has a
            sparsity that leaves each layer one.
        SparsityError: ``sparsity`` contradicts a rule or a structure that fixes it, or a structure
            does not fit a shape.
    """
    if sparsity is not None:
        check_fraction(sparsity, "sparsity")
    given = rule.topologies if isinstance(rule, Explicit) else {}
    units = _Units.of(shapes, structure, given)
    counts = _round(units, _exact(units, sparsity, rule))
    if sparsity is not None and (fixes_sparsity(rule) or units.all_fixed):
        _check_agreement(units, counts, sparsity, rule)
    empty = [name for name, count in counts.items() if count < 1]
    if empty:
        raise _infeasible(units, sparsity, rule, empty)
    return counts


@final
@dataclass(frozen=True)
class _Units:
    """Layers in units: of each, how many it has, how large one is, and how many step together.

    ``settled`` names those whose count follows exactly, from their structure or topology.
    """

    shapes: Shapes
    structures: Mapping[str, Structure]
    n_units: Mapping[str, int]
    step: Mapping[str, int]
    fixed: Mapping[str, float]
    settled: Collection[str]

    @classmethod
    def of(
        cls,
        shapes: Shapes,
        structure: Structure | Mapping[str, Structure] | None,
        given: Collection[str],
    ) -> _Units:
        if structure is None:
            structure = Unstructured()
        if not isinstance(structure, Mapping):
            structure = dict.fromkeys(shapes, structure)
        steps, fixed = {}, {}
        for name, shape in shapes.items():
            own = structure[name]
            check_is_structure(own)
            own.check(shape)
            # A topology that was given may have empty groups beside even ones.
            steps[name] = own.n_groups(shape) if own.even_groups and name not in given else 1
            if own.fixed_sparsity is not None:
                fixed[name] = own.fixed_sparsity
        n_units = {name: structure[name].n_units(shape) for name, shape in shapes.items()}
        return cls(shapes, structure, n_units, steps, fixed, {*fixed, *given})

    @property
    def all_fixed(self) -> bool:
        return len(self.fixed) == len(self.shapes)

    def size(self, name: str) -> int:
        """Elements of one unit."""
        return math.prod(self.shapes[name]) // self.n_units[name]

    def elements(self, counts: Mapping[str, int]) -> int:
        return sum(count * self.size(name) for name, count in counts.items())

    @property
    def n_elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())


def _exact(units: _Units, sparsity: float | None, rule: Allocation) -> Sparsities:
    """Real-valued sparsities: those that structures fix, and the rule's for the others."""
    exact: Allocation = getattr(rule, "exact", rule)
    if fixes_sparsity(rule):
        told = exact(units.shapes, sparsity)
        for name, fixed in units.fixed.items():
            if abs(told[name] - fixed) > 1e-9:
                raise SparsityError(
                    f"{rule} gives {name!r} a sparsity of {told[name]:g}, where "
                    f"{units.structures[name]} fixes {fixed:g}"
                )
        return told
    free = {name: shape for name, shape in units.shapes.items() if name not in units.fixed}
    return {**(exact(free, sparsity) if free else {}), **units.fixed}


def _round(units: _Units, fractions: Mapping[str, float]) -> dict[str, int]:
    wanted = {name: (1 - fractions[name]) * n for name, n in units.n_units.items()}
    counts = {
        name: (round if name in units.settled else _floor)(value / units.step[name])
        * units.step[name]
        for name, value in wanted.items()
    }
    budget = sum(value * units.size(name) for name, value in wanted.items())
    left = round(budget) - units.elements(counts)
    by_remainder = sorted(counts, key=lambda name: (counts[name] - wanted[name]) / units.step[name])
    for name in by_remainder:
        step = units.step[name] * units.size(name)
        has_room = counts[name] + units.step[name] <= units.n_units[name]
        if has_room and name not in units.settled and 2 * left >= step:
            counts[name] += units.step[name]
            left -= step
    return counts


def _floor(value: float) -> int:
    return math.floor(value + 1e-9)


def _check_agreement(
    units: _Units, counts: Mapping[str, int], sparsity: float, rule: Allocation
) -> None:
    rounded = [name for name in counts if name not in units.settled]
    slack = sum(units.step[name] * units.size(name) for name in rounded)
    live = units.elements(counts)
    if abs(live - n_active(units.n_elements, sparsity)) > slack:
        given = 1 - live / units.n_elements
        fixing = str(next(iter(units.structures.values()))) if units.all_fixed else str(rule)
        raise SparsityError(
            f"sparsity={sparsity:g}, but {fixing} gives {given:.6g}: pass sparsity=None with it"
        )


def _infeasible(
    units: _Units, sparsity: float | None, rule: Allocation, empty: list[str]
) -> InfeasibleSparsityError:
    reason = f"{rule} leaves no connection in {', '.join(empty[:5])}"
    if sparsity is None or fixes_sparsity(rule):
        return InfeasibleSparsityError(f"{reason}: give these layers a lower sparsity")
    largest = _largest_feasible(units, sparsity, rule)
    return InfeasibleSparsityError(
        f"sparsity={sparsity:g} cannot be met: {reason}; {largest:g} leaves every layer a "
        "connection under this rule, and not much more will",
        largest_feasible=largest,
    )


def _largest_feasible(units: _Units, infeasible: float, rule: Allocation) -> float:
    """A sparsity of at most six digits that leaves every layer a unit, near the largest such."""

    def leaves_all(sparsity: float) -> bool:
        return min(_round(units, _exact(units, sparsity, rule)).values()) >= 1

    while infeasible > 0:
        low, high = 0.0, infeasible
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if leaves_all(middle) else (low, middle)
        largest = math.floor(low * 1e6) / 1e6
        # Which layer gets what rounding leaves changes with the sparsity: a lower one may fail.
        if leaves_all(largest):
            return largest
        infeasible = largest
    return 0.0
