"""Allocation rules: how much of the budget each layer gets, as fractions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, final

from regrow._checks import check_fraction
from regrow.errors import SparsityError
from regrow.topology import Topology
from regrow.typing import Shape

Shapes = Mapping[str, Shape]
Sparsities = dict[str, float]


class Allocation(Protocol):
    """A rule that spreads a sparsity over layers."""

    def __call__(self, shapes: Shapes, sparsity: float | None) -> Sparsities:
        """Sparsity in [0, 1) of each layer; ``sparsity`` is None where the rule fixes it."""


@final
@dataclass(frozen=True)
class _Uniform:
    first_layer_dense: bool = False

    def __call__(self, shapes: Shapes, sparsity: float | None) -> Sparsities:
        wanted = _required(sparsity, self)
        result = dict.fromkeys(shapes, wanted)
        if self.first_layer_dense and result:
            result[next(iter(result))] = 0.0
        return result

    def __str__(self) -> str:
        return "uniform(first_layer_dense=True)" if self.first_layer_dense else "uniform()"


def uniform(*, first_layer_dense: bool = False) -> Allocation:
    """Every layer gets the same sparsity.

    Args:
        first_layer_dense: Keep the first layer dense, as RigL does (Evci et al. 2020, section
            3.1). The others keep ``sparsity`` each and do not make up for it, as in RigL's code:
            the sparsity that is counted over all layers is then a little below the one asked for.
    """
    return _Uniform(first_layer_dense)


@final
@dataclass(frozen=True)
class _ErdosRenyi:
    kernel: bool
    epsilon: float | None = None
    power: float = 1.0

    def __call__(self, shapes: Shapes, sparsity: float | None) -> Sparsities:
        raw = {name: self._raw(shape) for name, shape in shapes.items()}
        if self.epsilon is None:
            return _solve(shapes, raw, _required(sparsity, self), floor=True)
        return {name: 1 - min(1.0, self.epsilon * value) for name, value in raw.items()}

    def exact(self, shapes: Shapes, sparsity: float | None) -> Sparsities:
        """The same without flooring each layer's zeros: the sum is the budget, not a little above.

        Whole numbers of units start from this.
        """
        if self.epsilon is not None:
            return self(shapes, sparsity)
        raw = {name: self._raw(shape) for name, shape in shapes.items()}
        return _solve(shapes, raw, _required(sparsity, self), floor=False)

    def _raw(self, shape: Shape) -> float:
        dims = shape if self.kernel else shape[:2]
        return float((sum(dims) / math.prod(dims)) ** self.power)

    def __str__(self) -> str:
        name = "erdos_renyi_kernel" if self.kernel else "erdos_renyi"
        return f"{name}()" if self.epsilon is None else f"{name}(epsilon={self.epsilon:g})"


def erdos_renyi_kernel(*, power: float = 1.0) -> Allocation:
    """ERK: density proportional to (n_out + n_in + kh + kw) / (n_out n_in kh kw).

    Layers whose density would exceed 1 become dense and the rest is solved again (Evci et al.
    2020, section 3.1). As fractions, with the whole numbers of zeros, floor(S n), that RigL's code
    uses, so that its FLOPs come out to the last digit; whole numbers of units start from the real
    numbers, as the PyTorch ports do, so that their sum is the budget.

    Args:
        power: Exponent of the ratio (``erk_power_scale`` of RigL's code, default 1 there too);
            0 gives uniform.

    Raises:
        ValueError: ``power`` lies outside [0, 10].
    """
    if not 0 <= power <= 10:
        raise ValueError(f"power must lie in [0, 10], got {power!r}")
    return _ErdosRenyi(kernel=True, power=power)


def erdos_renyi(*, epsilon: float | None = None) -> Allocation:
    """ER: density proportional to (n_out + n_in) / (n_out n_in), the kernel left out.

    Args:
        epsilon: SET's own form (Mocanu et al. 2018, equation 3): density
            ``epsilon (n_out + n_in) / (n_out n_in)``, at most 1. It fixes the sparsity, so pass
            ``sparsity=None`` with it. SET uses 20 and 13 for its perceptrons.

    Raises:
        ValueError: ``epsilon`` is not positive.
    """
    if epsilon is not None and not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon!r}")
    return _ErdosRenyi(kernel=False, epsilon=epsilon)


@final
@dataclass(frozen=True)
class Explicit:
    """What ``explicit`` returns: the fractions, and the topologies where some were given."""

    sparsities: Sparsities
    topologies: Mapping[str, Topology] = field(default_factory=dict)

    def __call__(self, shapes: Shapes, sparsity: float | None) -> Sparsities:
        del sparsity  # `counts_of` compares the two
        missing = [name for name in shapes if name not in self.sparsities]
        unknown = [name for name in self.sparsities if name not in shapes]
        if missing or unknown:
            raise SparsityError(
                f"explicit must name exactly the selected weights: missing {missing}, "
                f"not selected {unknown}"
            )
        for name, topology in self.topologies.items():
            if topology.shape != tuple(shapes[name]):
                raise SparsityError(
                    f"explicit gives {name!r} a topology of shape {topology.shape}; "
                    f"the weight has shape {tuple(shapes[name])}"
                )
        return {name: self.sparsities[name] for name in shapes}

    def __str__(self) -> str:
        return "explicit(...)"


def explicit(layers: Mapping[str, float | Topology]) -> Explicit:
    """Every layer as told; pass ``sparsity=None`` with it.

    Args:
        layers: Name as in ``model.named_parameters()`` -> sparsity in [0, 1), or a ``Topology``
            to start from as it is. It must name exactly the selected weights.

    Raises:
        ValueError: A fraction outside [0, 1).
    """
    topologies = {name: value for name, value in layers.items() if isinstance(value, Topology)}
    sparsities = {
        name: value.sparsity
        if isinstance(value, Topology)
        else check_fraction(value, f"sparsity of {name!r}")
        for name, value in layers.items()
    }
    return Explicit(sparsities, topologies)


RULES: Mapping[str, Callable[[], Allocation]] = {
    "erdos_renyi_kernel": erdos_renyi_kernel,
    "erdos_renyi": erdos_renyi,
    "uniform": uniform,
}
"""Rules that need no argument, by name: for command lines."""


def fixes_sparsity(rule: Allocation) -> bool:
    """Whether the rule itself says how sparse the layers are."""
    return isinstance(rule, Explicit) or getattr(rule, "epsilon", None) is not None


def _required(sparsity: float | None, rule: Allocation) -> float:
    if sparsity is None:
        raise SparsityError(f"sparsity=None, but {rule} does not fix it: pass a number in [0, 1)")
    return sparsity


def _solve(shapes: Shapes, raw: Mapping[str, float], sparsity: float, *, floor: bool) -> Sparsities:
    """Scale raw densities to the budget; what would exceed 1 becomes dense, largest first."""
    n_weights = {name: math.prod(shape) for name, shape in shapes.items()}
    n_zeros = {
        name: math.floor(sparsity * n) if floor else sparsity * n for name, n in n_weights.items()
    }
    dense: set[str] = set()
    while len(dense) < len(shapes):
        sparse = [name for name in shapes if name not in dense]
        budget: float = sum(n_weights[name] - n_zeros[name] for name in sparse)
        budget -= sum(n_zeros[name] for name in dense)
        # Never zero: a layer was made dense because its share was larger than itself.
        scale = budget / sum(raw[name] * n_weights[name] for name in sparse)
        largest = max(raw[name] for name in sparse)
        if largest * scale <= 1:
            break
        dense |= {name for name in sparse if raw[name] == largest}
    return {name: 0.0 if name in dense else 1 - scale * raw[name] for name in shapes}
