"""What paired seeds say: a mean difference and how sure it is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from regrow._checks import check_fraction
from regrow._optional import require


@final
@dataclass(frozen=True)
class Estimate:
    """A mean with its Student-t interval.

    Args:
        mean: Mean of the values.
        low: Lower end of the interval; None for a single value, which has no interval.
        high: Upper end; None for a single value.
        values: The values.
    """

    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]

    @property
    def is_above_zero(self) -> bool:
        """Whether all of the interval lies above 0; False without an interval."""
        return self.low is not None and self.low > 0

    @property
    def is_below_zero(self) -> bool:
        """Whether all of the interval lies below 0; False without an interval."""
        return self.high is not None and self.high < 0


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Estimate:
    """Mean of independent values and the Student-t interval of their expectation.

    Args:
        values: At least one finite number.
        confidence: Coverage of the interval in [0, 1). Default 0.95, the usual level.

    Returns:
        The mean with mean -+ t(1/2 + confidence/2, n - 1) s / sqrt(n), s being the sample's
        standard deviation with n - 1 in the denominator; without an interval where n is 1.

    Raises:
        ValueError: No value, or one that is not finite.

    Source: Student, "The probable error of a mean", Biometrika 6 (1908).
    """
    confidence = check_fraction(confidence, "confidence")
    n = len(values)
    if not n or not all(math.isfinite(value) for value in values):
        raise ValueError(f"values must be at least one finite number, got {list(values)!r}")
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, None, tuple(values))
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    stats = require("scipy.stats", extra="robustness")
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * math.sqrt(variance / n)
    return Estimate(mean, mean - half, mean + half, tuple(values))


def paired_difference(
    treated: Mapping[int, float], control: Mapping[int, float], *, confidence: float = 0.95
) -> Estimate | None:
    """Mean difference over the seeds that both arms have.

    Pairing removes what the two runs of a seed share: initial weights, order of the batches,
    augmentation, corrupted images. Seeds of one arm only are left out.

    Args:
        treated: Seed -> value of the arm in question.
        control: Seed -> value of the arm it is compared with.
        confidence: Coverage of the interval in [0, 1).

    Returns:
        Estimate of treated - control, or None where no seed is in both.

    Raises:
        ValueError: A value is not finite.
    """
    differences = [treated[seed] - control[seed] for seed in sorted(treated.keys() & control)]
    return mean_interval(differences, confidence=confidence) if differences else None
