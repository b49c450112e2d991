"""The runs of a comparison: every method at every sparsity with every seed."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import final

from regrow._checks import check_count, check_fraction


@final
@dataclass(frozen=True, order=True)
class Cell:
    """One run of a comparison.

    Args:
        method: Name of the arm's method, such as ``"rigl"``.
        sparsity: Target sparsity in [0, 1); 0 for dense training.
        seed: The run's seed. Runs of equal seed are paired.
    """

    method: str
    sparsity: float
    seed: int

    @property
    def name(self) -> str:
        """A name that is unique in a grid and may be a folder's."""
        return f"{self.method}-sparsity{self.sparsity!r}-seed{self.seed}"


def grid(
    methods: Sequence[str],
    sparsities: Sequence[float],
    *,
    seeds: Sequence[int],
    without_sparsity: Collection[str] = ("dense",),
) -> list[Cell]:
    """List the cells of a comparison, seed by seed.

    All runs of one seed come before those of the next, so that a study that is stopped early
    leaves complete pairs.

    Args:
        methods: Names of the methods, none twice.
        sparsities: Target sparsities in [0, 1), none twice.
        seeds: Seeds, none twice, each at least 0.
        without_sparsity: Methods that have no sparsity: one cell a seed, at sparsity 0.

    Returns:
        The cells.

    Raises:
        TypeError: A sparsity is no number, or a seed no integer.
        ValueError: A list is empty or repeats itself, or a value is out of range.
    """
    sparsities = [check_fraction(value, "sparsity") for value in sparsities]
    seeds = [check_count(seed, "seed", least=0) for seed in seeds]
    for name, values in (("methods", methods), ("sparsities", sparsities), ("seeds", seeds)):
        if not values:
            raise ValueError(f"{name} is empty; a comparison needs at least one")
        if len(set(values)) != len(values):
            raise ValueError(f"{name} must name each only once, got {list(values)!r}")
    cells = []
    for seed in seeds:
        for method in methods:
            if method in without_sparsity:
                cells.append(Cell(method, 0.0, seed))
            else:
                cells.extend(Cell(method, sparsity, seed) for sparsity in sparsities)
    return cells
