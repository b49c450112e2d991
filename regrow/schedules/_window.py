"""When a rewiring happens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from regrow._checks import check_count


@final
@dataclass(frozen=True)
class UpdateWindow:
    """A rewiring every ``interval`` optimizer steps, behind ``start`` and before ``stop``.

    Steps count from 1: the first ``optimizer.step()`` is step 1. Due are the steps
    ``start + interval, start + 2 * interval, ...`` below ``stop``, and those in ``also``.

    Args:
        interval: Steps from one rewiring to the next, at least 1.
        stop: First step at which no rewiring is due any more.
        start: Last step before the first interval begins.
        also: Further steps, ascending, wherever they lie: where a phase begins that explores more
            (EDST of FreeTickets: Liu et al. 2022, "Deep Ensembling with No Overhead").

    Raises:
        TypeError: ``also`` is no tuple of integers.
        ValueError: No rewiring would ever be due at the intervals, or ``also`` does not ascend
            from 1 or higher.

    Example:
        >>> list(UpdateWindow(interval=100, stop=400).steps)
        [100, 200, 300]
        >>> list(UpdateWindow(interval=100, stop=400, also=(151,)).steps)
        [100, 151, 200, 300]
    """

    interval: int
    stop: int
    start: int = 0
    also: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_count(self.interval, "interval")
        check_count(self.start, "start", least=0)
        check_count(self.stop, "stop")
        if self.start + self.interval >= self.stop:
            raise ValueError(
                f"interval={self.interval} never comes due between step {self.start} and step "
                f"{self.stop}, where rewiring stops: choose an interval below "
                f"{max(self.stop - self.start, 2)}, or train for more steps"
            )
        if not isinstance(self.also, tuple):
            raise TypeError(f"also must be a tuple of steps, got {self.also!r}")
        for step in self.also:
            check_count(step, "a step in also")
        if list(self.also) != sorted(set(self.also)):
            raise ValueError(f"also must ascend without repeats, got {self.also}")

    @classmethod
    def of_training(
        cls, n_steps: int, *, interval: int, stop_at: float, start_at: float = 0.0
    ) -> UpdateWindow:
        """The window of a training of ``n_steps``, with its ends as fractions of it.

        Args:
            n_steps: Optimizer steps of the whole training.
            interval: Steps from one rewiring to the next.
            stop_at: Fraction in (0, 1] of the training at which rewiring stops.
            start_at: Fraction in [0, stop_at) behind which it starts.

        Raises:
            ValueError: A fraction is out of range, or no rewiring would ever be due.
        """
        check_count(n_steps, "n_steps")
        check_count(interval, "interval")
        if not 0.0 < stop_at <= 1.0:
            raise ValueError(f"stop_at must lie in (0, 1], got {stop_at!r}")
        if not 0.0 <= start_at < stop_at:
            raise ValueError(f"start_at must lie in [0, stop_at={stop_at}), got {start_at!r}")
        # 0.7 * 10 is a hair below 7 in binary; a fraction means the step that it names.
        stop = math.floor(stop_at * n_steps * (1 + 1e-12) + 1e-9)
        start = math.floor(start_at * n_steps * (1 + 1e-12) + 1e-9)
        return cls(interval=interval, stop=stop, start=start)

    @property
    def steps(self) -> Sequence[int]:
        """All steps at which a rewiring is due, ascending."""
        return sorted({*self._regular, *self.also}) if self.also else self._regular

    def is_due(self, step: int) -> bool:
        """Whether a rewiring is due at ``step``."""
        return step in self._regular or step in self.also

    @property
    def last(self) -> int:
        """The last step at which a rewiring is due."""
        return self.steps[-1]

    @property
    def _regular(self) -> range:
        return range(self.start + self.interval, self.stop, self.interval)
