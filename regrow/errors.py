"""Errors that regrow raises beside the built-in ones."""


class SparsityError(ValueError):
    """A request about sparsity that cannot be carried out; the message says what would work."""


class InfeasibleSparsityError(SparsityError):
    """A budget that no allocation of this kind can meet.

    Args:
        message: What was asked, what stands in the way, what would be feasible.
        largest_feasible: A sparsity in [0, 1) that the same rule can meet, found by bisection: as a
            rule the largest, but rounding to whole units can let a slightly higher one pass. None
            where there is none to name.
    """

    def __init__(self, message: str, *, largest_feasible: float | None = None) -> None:
        super().__init__(message)
        self.largest_feasible = largest_feasible


class BackendUnavailableError(ImportError):
    """An optional package that the call needs is not installed; the message names the extra."""


class RankMismatchError(RuntimeError):
    """Ranks of one process group decided different topologies."""


class LayerCollapseWarning(UserWarning):
    """A layer lost all, or nearly all, of its connections; it is warned of once."""
