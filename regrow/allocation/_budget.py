"""Fractions to whole numbers of units that a model can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping

from regrow._checks import check_choice, check_fraction
from regrow.allocation._rules import RULES, Allocation, Shapes, Sparsities, fixes_sparsity
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
    structure: Structure | None = None,
) -> dict[str, int]:
    """Spread a sparsity over layers, as whole numbers of active units.

    The total is the nearest whole number to the budget, and each layer is within one unit of its
    own real-valued share (largest remainders, ties to the earlier layer). For ER and ERK that share
    is solved without the floors of ``allocate``, which can differ from it by a little more.

    Args:
        shapes: Name -> shape of each weight.
        sparsity: Fraction in [0, 1) of zeros over all of them; None where the rule fixes it.
        rule: The allocation.
        structure: What a unit is; by default a single element.

    Returns:
        Name -> active units, at least 1 each.

    Raises:
        InfeasibleSparsityError: A layer would get no unit at all; the message has a
            sparsity that leaves each layer one.
        SparsityError: ``sparsity`` contradicts a rule that fixes it.
    """
    structure = Unstructured() if structure is None else structure
    if sparsity is not None:
        check_fraction(sparsity, "sparsity")
    counts = _round(shapes, _exact(shapes, sparsity, rule), structure)
    if fixes_sparsity(rule) and sparsity is not None:
        _check_agreement(shapes, counts, sparsity, rule, structure)
    empty = [name for name, count in counts.items() if count < 1]
    if empty:
        raise _infeasible(shapes, sparsity, rule, structure, empty)
    return counts


def _exact(shapes: Shapes, sparsity: float | None, rule: Allocation) -> Sparsities:
    exact: Allocation = getattr(rule, "exact", rule)
    return exact(shapes, sparsity)


def _round(shapes: Shapes, fractions: Mapping[str, float], structure: Structure) -> dict[str, int]:
    n_units = {name: structure.n_units(shape) for name, shape in shapes.items()}
    wanted = {name: (1 - fractions[name]) * n_units[name] for name in shapes}
    counts = {name: math.floor(value + 1e-9) for name, value in wanted.items()}
    left = round(sum(wanted.values())) - sum(counts.values())
    by_remainder = sorted(shapes, key=lambda name: counts[name] - wanted[name])
    for name in [name for name in by_remainder if counts[name] < n_units[name]][: max(left, 0)]:
        counts[name] += 1
    return counts


def _check_agreement(
    shapes: Shapes,
    counts: Mapping[str, int],
    sparsity: float,
    rule: Allocation,
    structure: Structure,
) -> None:
    total = sum(structure.n_units(shape) for shape in shapes.values())
    if abs(sum(counts.values()) - n_active(total, sparsity)) > len(shapes):
        given = 1 - sum(counts.values()) / total
        raise SparsityError(
            f"sparsity={sparsity:g}, but {rule} gives {given:.6g}: pass sparsity=None with it"
        )


def _infeasible(
    shapes: Shapes,
    sparsity: float | None,
    rule: Allocation,
    structure: Structure,
    empty: list[str],
) -> InfeasibleSparsityError:
    reason = f"{rule} leaves no connection in {', '.join(empty[:5])}"
    if sparsity is None or fixes_sparsity(rule):
        return InfeasibleSparsityError(f"{reason}: give these layers a lower sparsity")
    low, high = 0.0, sparsity
    for _ in range(40):
        middle = (low + high) / 2
        if min(_round(shapes, _exact(shapes, middle, rule), structure).values()) >= 1:
            low = middle
        else:
            high = middle
    largest = math.floor(low * 1e6) / 1e6
    return InfeasibleSparsityError(
        f"sparsity={sparsity:g} cannot be met: {reason}; {largest:g} leaves every layer a "
        "connection under this rule, and not much more will",
        largest_feasible=largest,
    )
