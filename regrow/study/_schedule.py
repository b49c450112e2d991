"""When a study rewires: it fixes how often, and the interval follows from the length of the run."""

from dataclasses import dataclass
from typing import final

from regrow._checks import check_count

DEFAULT_REWIRINGS = 60
"""Rewirings of a training, where it is long enough."""
LEAST_REWIRINGS = 20
"""Fewer than these a study refuses."""
LEAST_INTERVAL = 5
STOP_AT = 0.75


@final
@dataclass(frozen=True)
class RewiringSchedule:
    """When a run rewires.

    Args:
        rewirings: How often, all told.
        interval: Weight steps from one rewiring to the next, and from the start to the first.
        stop_at: Share of the run's weight steps after which none is due, in (0, 1].
    """

    rewirings: int
    interval: int
    stop_at: float


def rewiring_schedule(
    n_steps: int,
    *,
    rewirings: int = DEFAULT_REWIRINGS,
    interval: int | None = None,
    steps_per_epoch: int | None = None,
) -> RewiringSchedule:
    """Spread a number of rewirings over the first three quarters of a run.

    A fixed interval would make the number of rewirings depend on the length of the run, and in a
    short run a common value such as 100 would never rewire: dynamic and static training would
    silently be the same.

    Args:
        n_steps: Weight steps of the run.
        rewirings: How many are wanted, at least 20; fewer are done where two would be less than 5
            weight steps apart. Default 60.
        interval: Weight steps between rewirings; the number then follows from it.
        steps_per_epoch: For the message when the run is too short: states its length in epochs.

    Returns:
        The schedule. Every rewiring happens before 3/4 of the run (the ``stop_at`` of RigL, Evci
        et al., ICML 2020, 4).

    Raises:
        ValueError: There would be fewer than 20 rewirings; says what would be enough.
    """
    check_count(n_steps, "n_steps")
    check_count(rewirings, "rewirings", least=LEAST_REWIRINGS)
    # A rewiring is due at interval, 2 interval, ... as long as that is below stop_at n_steps.
    last = int(n_steps * STOP_AT) - 1
    if interval is None:
        number = min(rewirings, last // LEAST_INTERVAL)
        spacing = last // number if number else 0
    else:
        spacing = check_count(interval, "interval")
        number = last // spacing
    if number < LEAST_REWIRINGS:
        raise ValueError(_too_few(n_steps, number, last, interval, steps_per_epoch))
    if interval is not None:
        return RewiringSchedule(number, spacing, STOP_AT)
    # Half a step more than needed keeps rounding from moving the end below the last rewiring.
    return RewiringSchedule(number, spacing, (spacing * number + 1.5) / n_steps)


def _too_few(
    n_steps: int, number: int, last: int, interval: int | None, steps_per_epoch: int | None
) -> str:
    """Say what would give enough rewirings."""
    spacing = interval or LEAST_INTERVAL
    needed = n_steps
    while (int(needed * STOP_AT) - 1) // spacing < LEAST_REWIRINGS:
        needed += 1
    enough = f"at least {needed} weight steps"
    if steps_per_epoch:
        epochs = -(-needed // steps_per_epoch)
        enough += f" ({epochs} epochs of {steps_per_epoch})"
    largest = last // LEAST_REWIRINGS
    if largest >= 1:
        enough += f" or an interval of at most {largest}"
    at = f"every {spacing} weight steps"
    return (
        f"{n_steps} weight steps give {max(number, 0)} rewirings {at}, and a comparison of dynamic "
        f"training needs at least {LEAST_REWIRINGS}: take {enough}"
    )
