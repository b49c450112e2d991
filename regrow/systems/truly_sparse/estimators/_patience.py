"""When to stop: no improvement for a number of epochs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from regrow._checks import check_count


@final
@dataclass
class Patience:
    """Follows a score, the higher the better, as scikit-learn's networks do.

    Args:
        n_epochs: How many epochs in a row may pass without an improvement by ``tol``.
        tol: The least that counts, at least 0.
        best: The highest score so far.
        waited: Epochs since the last improvement that counted.
    """

    n_epochs: int
    tol: float
    best: float = -float("inf")
    waited: int = 0

    def __post_init__(self) -> None:
        check_count(self.n_epochs, "n_iter_no_change")
        if not self.tol >= 0:
            raise ValueError(f"tol must be at least 0, got {self.tol!r}")

    def see(self, score: float) -> bool:
        """Take in one epoch; whether its score is the highest so far."""
        self.waited = 0 if score > self.best + self.tol else self.waited + 1
        is_best = score > self.best
        self.best = max(self.best, score)
        return is_best

    @property
    def is_over(self) -> bool:
        """Whether patience is over."""
        return self.waited >= self.n_epochs
