"""The answer to the question, in one sentence."""

from collections.abc import Sequence

from regrow.robustness._summary import ArmSummary, Comparison, Summary
from regrow.study import DYNAMIC, Estimate

_MOST_NAMED = 3


def answer(summary: Summary) -> str:
    """Say in one sentence whether dynamic sparse training beats dense training.

    It does, for an arm, if the 95 % interval of its paired difference to dense training lies above
    0, and it is the *dynamic* part that does it if the same holds against static training with as
    many weights: the rule of the specification, without its threshold of one point, which the
    numbers in the sentence let the reader apply. Intervals are not widened for the number of arms.

    Args:
        summary: What the study says.

    Returns:
        The sentence.
    """
    dynamic = [
        arm for arm in summary.arms if arm.method in DYNAMIC and _gain(arm.versus_dense) is not None
    ]
    on, what = f"on {summary.data} with {summary.model}", _what(summary)
    if not dynamic:
        return f"No answer {on}: it takes dense training and a dynamic method to compare."
    n = len(dynamic)
    if summary.n_seeds < 2:
        return (
            f"No answer {on}: one seed gives no interval; difference to dense training: "
            f"{_name(dynamic)} ({what})."
        )
    better = [arm for arm in dynamic if _is_above(arm.versus_dense)]
    worse = [arm for arm in dynamic if _is_below(arm.versus_dense)]
    beyond_static = [arm for arm in better if _is_above(arm.versus_static)]
    if beyond_static:
        return (
            f"{'Yes' if len(beyond_static) == n else 'In part'}: {on}, {_count(beyond_static, n)} "
            f"beat dense training, {_name(beyond_static)}, and beat static sparse training too "
            f"({what})."
        )
    if better:
        why = (
            "but none of them beats static sparse training too, so it is not shown that rewiring "
            "is the reason"
            if any(_gain(arm.versus_static) is not None for arm in better)
            else "but there is no static arm to tell whether rewiring is the reason"
        )
        return (
            f"In part: {on}, {_count(better, n)} beat dense training, {_name(better)}, {why} "
            f"({what})."
        )
    if worse:
        return (
            f"No: {on}, no dynamic arm beats dense training, and {_count(worse, n)} fall behind "
            f"it: {_name(worse)} ({what})."
        )
    return (
        f"Not shown: {on}, no dynamic arm's difference to dense training has a 95 % interval "
        f"without 0: {_name(dynamic)} ({what})."
    )


def _what(summary: Summary) -> str:
    kinds = summary.common_name if summary.n_common else f"{len(summary.corruptions)} chosen"
    seeds = "one seed" if summary.n_seeds == 1 else f"{summary.n_seeds} paired seeds"
    return f"mean over {kinds} corruptions, {seeds}"


def _gain(comparison: Comparison | None) -> Estimate | None:
    """The difference that decides: over the common corruptions, or over all where there is none."""
    if comparison is None:
        return None
    return comparison.common or comparison.everything


def _is_above(comparison: Comparison | None) -> bool:
    gain = _gain(comparison)
    return gain is not None and gain.is_above_zero


def _is_below(comparison: Comparison | None) -> bool:
    gain = _gain(comparison)
    return gain is not None and gain.is_below_zero


def _count(arms: Sequence[ArmSummary], n: int) -> str:
    return f"all {n} dynamic arms" if len(arms) == n else f"{len(arms)} of {n} dynamic arms"


def _name(arms: Sequence[ArmSummary]) -> str:
    """Arms with their differences to dense; the smallest and largest where there are many."""
    gains = [(arm, gain) for arm in arms if (gain := _gain(arm.versus_dense)) is not None]
    gains.sort(key=lambda pair: -pair[1].mean)
    named = [
        f"{arm.method} at sparsity {arm.sparsity:g} {difference(gain)} points"
        for arm, gain in gains
    ]
    return f"from {named[-1]} to {named[0]}" if len(named) > _MOST_NAMED else ", ".join(named)


def difference(estimate: Estimate | None) -> str:
    """A difference of accuracies in percentage points, with its interval where it has one."""
    if estimate is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return points(estimate.mean)
    return f"{points(estimate.mean)} [{points(estimate.low)}, {points(estimate.high)}]"


def points(value: float) -> str:
    """A difference of fractions in percentage points, with its sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text
