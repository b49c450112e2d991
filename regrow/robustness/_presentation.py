"""The tables that a study shows, the same on the terminal and on the page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from regrow.accounting import in_units, text_table
from regrow.robustness._answer import answer, difference
from regrow.robustness._summary import ArmSummary, Comparison, Summary
from regrow.study import Estimate, duration


@final
@dataclass(frozen=True)
class Table:
    """A table with its title.

    Args:
        title: What it shows.
        header: One title a column.
        rows: One text a column in every row.
        styles: ``"good"`` where an interval lies above 0, ``"bad"`` below, else nothing.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    styles: Sequence[Sequence[str]]


def tables(summary: Summary) -> list[Table]:
    """Accuracies, differences to the controls, and costs of each arm.

    Args:
        summary: What the study says.
    """
    common = summary.common_name
    everything = f"all {len(summary.corruptions)}"
    columns: dict[str, Callable[[Comparison], Estimate | None]] = {}
    if summary.n_common:
        columns[common] = lambda comparison: comparison.common
    if summary.n_common < len(summary.corruptions):
        columns[everything] = lambda comparison: comparison.everything
    columns["clean"] = lambda comparison: comparison.clean
    made = [_accuracies(summary, columns)]
    for control, select in (
        ("dense training", lambda arm: arm.versus_dense),
        ("static sparse training", lambda arm: arm.versus_static),
    ):
        table = _differences(summary, control, columns, select)
        if table.rows:
            made.append(table)
    made.append(_costs(summary))
    return made


def terminal_text(summary: Summary) -> str:
    """All that a study says, for a terminal.

    Args:
        summary: What the study says.
    """
    parts = [
        f"{table.title}\n{text_table(table.header, table.rows, n_left=2)}"
        for table in tables(summary)
    ]
    return "\n\n".join([*parts, answer(summary)])


def _accuracies(
    summary: Summary, columns: dict[str, Callable[[Comparison], Estimate | None]]
) -> Table:
    rows = []
    for arm in summary.arms:
        own = Comparison(arm.common, arm.everything, arm.clean)
        rows.append([*_head(arm), *(percent(select(own)) for select in columns.values())])
    seeds = "one seed" if summary.n_seeds == 1 else f"mean of {summary.n_seeds} seeds"
    title = f"Accuracy in % on corrupted and on clean images, {seeds}"
    return _plain(title, ["arm", "sparsity", *columns], rows)


def _differences(
    summary: Summary,
    control: str,
    columns: dict[str, Callable[[Comparison], Estimate | None]],
    select: Callable[[ArmSummary], Comparison | None],
) -> Table:
    rows, styles = [], []
    for arm in summary.arms:
        comparison = select(arm)
        if comparison is None:
            continue
        estimates = [column(comparison) for column in columns.values()]
        rows.append([*_head(arm), *map(difference, estimates)])
        styles.append(["", "", *map(_style, estimates)])
    interval = "" if summary.n_seeds == 1 else ", with its 95 % interval over paired seeds"
    title = f"Difference to {control} in percentage points{interval}"
    return Table(title, ["arm", "sparsity", *columns], rows, styles)


def _costs(summary: Summary) -> Table:
    header = ["arm", "sparsity", "parameters", "live", "training FLOPs", "FLOPs an image", "size",
              "seconds", "weight steps", "rewirings", "explored"]  # fmt: skip
    rows = []
    for arm in summary.arms:
        cost = arm.costs
        if not cost:
            continue
        rows.append(
            [
                *_head(arm),
                f"{cost['parameters']:,.0f}",
                f"{cost['live_parameters']:,.0f}",
                in_units(cost["training_flops"]),
                in_units(cost["inference_flops"]),
                in_units(cost["bytes"], "B"),
                f"{cost['seconds']:,.1f}" if cost["seconds"] < 1000 else duration(cost["seconds"]),
                f"{cost['weight_steps']:,.0f}",
                f"{cost['rewirings']:,.0f}",
                f"{100 * cost['exploration']:.1f} %",
            ]
        )
    return _plain("Costs of a run", header, rows)


def _plain(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return Table(title, header, rows, [[""] * len(header) for _ in rows])


def _head(arm: ArmSummary) -> list[str]:
    return [arm.method, f"{arm.sparsity:g}"]


def percent(estimate: Estimate | None) -> str:
    """A mean accuracy in per cent."""
    return "" if estimate is None else f"{100 * estimate.mean:.1f}"


def _style(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return "good" if estimate.is_above_zero else "bad" if estimate.is_below_zero else ""
