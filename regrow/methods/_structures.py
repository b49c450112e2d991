"""Which structures each method takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, final

from regrow._checks import check_choice
from regrow.errors import SparsityError
from regrow.topology import Structure
from regrow.training import Budget


@final
@dataclass(frozen=True)
class Takes:
    """What a method takes, told by what structures fix: it holds for those of your own too.

    Args:
        method: Name of the method.
        fixed: Whether it takes structures that fix the sparsity (``NM``): those that move to a
            target do not.
        even: Whether it takes structures that keep groups even (``ConstantFanIn``,
            ``Kernel(per_output=True)``): not where single units of all layers are pruned together.

    Example:
        >>> from regrow.topology import NM
        >>> NM(2, 4) in structures_of("rigl"), NM(2, 4) in structures_of("granet")
        (True, False)
    """

    method: str
    fixed: bool = True
    even: bool = True

    def __contains__(self, structure: Structure) -> bool:
        """Whether the method takes a structure."""
        return self.why_not(structure) is None

    def why_not(self, structure: Structure) -> str | None:
        """Why the method does not take a structure, and what would work; None where it does.

        Args:
            structure: Of the library or of your own.
        """
        if structure.fixed_sparsity is not None and not self.fixed:
            keep = ", ".join(name for name, takes in _DECLARED.items() if takes.fixed)
            return (
                f"{self.method} moves to a target, and {structure} fixes the sparsity of every "
                f"layer at {structure.fixed_sparsity:g}: use a method that keeps counts ({keep})"
            )
        if structure.even_groups and structure.fixed_sparsity is None and not self.even:
            return (
                f"{self.method} prunes single units of all layers together, and {structure} keeps "
                "groups even: pass "
                "budget=regrow.per_layer(allocation=regrow.erdos_renyi_kernel())"
            )
        return None

    def check(self, structure: Structure) -> None:
        """Raise ``SparsityError`` with the reason if the method does not take a structure."""
        reason = self.why_not(structure)
        if reason is not None:
            raise SparsityError(reason)


# With default arguments.
_DECLARED: Mapping[str, Takes] = MappingProxyType(
    {
        takes.method: takes
        for takes in (
            Takes("static"),
            Takes("set_training"),
            Takes("rigl"),
            Takes("mest", fixed=False),
            Takes("granet", fixed=False, even=False),
            Takes("gradual", fixed=False, even=False),
        )
    }
)


def structures_of(method: str | Callable[..., Any], *, budget: Budget | None = None) -> Takes:
    """Which structures a method takes.

    Args:
        method: One of ``regrow.methods``, or its name.
        budget: The budget that is passed to ``granet`` or ``gradual``; None: their default.

    Returns:
        What it takes: ask ``structure in ...``, or ``.why_not(structure)`` for the reason.

    Raises:
        ValueError: Not one of ``regrow.methods``, or a budget for one that takes none.
    """
    name = method if isinstance(method, str) else getattr(method, "__name__", repr(method))
    takes = _DECLARED[check_choice(name, "method", _DECLARED)]
    if budget is None:
        return takes
    if takes.even:  # over all layers or not is a choice in the others only
        raise ValueError(f"{name} takes no budget: leave budget= out")
    return Takes(name, fixed=takes.fixed, even=not getattr(budget, "over_all_layers", False))
