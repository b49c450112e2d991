"""Pictures for a report, drawn without a display and without global state."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from regrow._optional import require

# Okabe & Ito's colours, told apart by most people, the yellow darkened to be seen on white,
# and three more.
COLOURS = (
    "#333333",
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#d55e00",
    "#0072b2",
    "#cc79a7",
    "#b8a000",
    "#7b4fa3",
    "#8c564b",
)
"""Colours of series, in the order of their use."""
_INK = "#1c2430"
_GRID = "#dde2e9"


@final
@dataclass(frozen=True)
class Series:
    """One line of a panel.

    Args:
        name: For the legend.
        x: Positions.
        y: Values; a value that is not finite leaves a gap.
        low: Lower ends of intervals around the values, or empty for none.
        high: Upper ends.
        colour: A colour of `COLOURS` or any other that matplotlib knows.
        dashed: Whether the line is dashed, for a reference.
        markers: Whether each value gets a dot.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    colour: str = COLOURS[0]
    dashed: bool = False
    markers: bool = True


@final
@dataclass(frozen=True)
class Panel:
    """One set of axes with lines.

    Args:
        title: Above it.
        x_label: Below it.
        y_label: At its side.
        series: Its lines.
        x_ticks: Position -> label where the positions are not to be read as numbers.
        zero_line: Whether a line at 0 is drawn.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_ticks: dict[float, str] = field(default_factory=dict)
    zero_line: bool = False


def line_panels(panels: Sequence[Panel]) -> bytes:
    """Draw panels side by side with one legend below.

    Args:
        panels: At least one.

    Returns:
        An SVG file.
    """
    with _figure(3.7 * len(panels), 3.4) as (figure, result):
        axes = np.atleast_1d(figure.subplots(1, len(panels)))
        names: dict[str, Any] = {}
        for panel, ax in zip(panels, axes, strict=True):
            _draw_panel(ax, panel, names)
        figure.legend(
            names.values(), names.keys(), loc="outside lower center", ncols=min(5, len(names)),
            frameon=False,
        )  # fmt: skip
    return result.getvalue()


def _draw_panel(ax: Any, panel: Panel, names: dict[str, Any]) -> None:  # noqa: ANN401
    ax.set_title(panel.title)
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)
    ax.grid(visible=True, axis="y")
    if panel.zero_line:
        ax.axhline(0, color=_INK, linewidth=1)
    for line in panel.series:
        style: dict[str, Any] = {"color": line.colour, "linestyle": "--" if line.dashed else "-"}
        if line.markers:
            style |= {"marker": "o", "markersize": 4.5}
        (drawn,) = ax.plot(line.x, line.y, **style)
        names.setdefault(line.name, drawn)
        if len(line.low):
            ax.vlines(line.x, line.low, line.high, color=line.colour, linewidth=1.6)
    if panel.x_ticks:
        ax.set_xticks(list(panel.x_ticks), list(panel.x_ticks.values()))
        ax.set_xlim(min(panel.x_ticks) - 0.5, max(panel.x_ticks) + 0.5)


def heat_maps(
    values: Sequence[tuple[str, np.ndarray]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    column_label: str = "",
    n_across: int = 5,
) -> bytes:
    """Draw signed numbers as tables of colours, blue above 0 and red below.

    Args:
        values: Title and float (rows, columns) of each map; nan leaves a field empty. All share
            one scale, symmetric around 0.
        rows: Names of the rows.
        columns: Names of the columns.
        label: What the numbers are.
        column_label: What the columns are.
        n_across: Maps beside each other.

    Returns:
        An SVG file.
    """
    largest = max((float(np.nanmax(np.abs(array), initial=0)) for _, array in values), default=0)
    scale = largest if math.isfinite(largest) and largest > 0 else 1.0
    n_across = min(n_across, len(values))
    n_down = -(-len(values) // n_across)
    width = 1.7 + n_across * (0.5 * len(columns) + 0.35)
    with _figure(width, n_down * (0.9 + 0.26 * len(rows))) as (figure, result):
        grid = figure.subplots(n_down, n_across, sharey=True, squeeze=False)
        shown = None
        for ax in grid.flat[len(values) :]:
            ax.remove()
        for (title, array), ax in zip(values, grid.flat, strict=False):
            shown = ax.imshow(array, cmap="RdBu", vmin=-scale, vmax=scale, aspect="auto")
            ax.set_title(title, fontsize=9)
            ax.set_xlabel(column_label)
            ax.set_xticks(range(len(columns)), columns)
            ax.set_yticks(range(len(rows)), rows)
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
            _write_values(ax, array, scale)
        used = list(grid.flat[: len(values)])
        figure.colorbar(shown, ax=used, label=label, shrink=0.6, aspect=30, pad=0.02)
    return result.getvalue()


def _write_values(ax: Any, array: np.ndarray, scale: float) -> None:  # noqa: ANN401
    for (row, column), value in np.ndenumerate(array):
        if math.isfinite(value):
            colour = "white" if abs(value) > 0.6 * scale else _INK
            text = "0" if abs(value) < 0.05 else f"{value:+.1f}"
            ax.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)


def image_grid(
    images: Sequence[Sequence[np.ndarray | None]],
    *,
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    titles: Sequence[Sequence[str]] = (),
    inches: float = 0.8,
    kind: str = "svg",
    dpi: float = 100,
) -> bytes:
    """Draw pictures in rows and columns.

    Args:
        images: Rows of uint8 (H, W, 3) arrays; None leaves a place empty.
        columns: A title for each column.
        rows: A title for each row.
        titles: A title for each picture, in place of those of columns.
        inches: Side of a picture.
        kind: ``"svg"`` or ``"png"``.
        dpi: Resolution of a PNG.

    Returns:
        The file.
    """
    n_rows, n_columns = len(images), max(len(row) for row in images)
    # Places are set by hand: a layout engine would move the pictures apart for long titles.
    left = 0.8 if rows else 0.1
    right = 0.8 if columns else 0.1
    top = 0.85 if columns else 0.1
    head = 0.26 if titles else 0.06
    width = left + n_columns * inches + right
    height = top + n_rows * (inches + head) + 0.06
    with _figure(width, height, kind=kind, dpi=dpi, layout="none") as (figure, result):
        for i, j in np.ndindex(n_rows, n_columns):
            picture = images[i][j] if j < len(images[i]) else None
            if picture is None:
                continue
            bottom = height - top - i * (inches + head) - head - inches
            side = 0.94 * inches
            place = (
                (left + j * inches) / width, bottom / height, side / width, side / height,
            )  # fmt: skip
            ax = figure.add_axes(place, xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            ax.imshow(picture, interpolation="nearest")
            if titles:
                ax.set_title(titles[i][j], fontsize=8, pad=3)
            if columns and i == 0:
                ax.set_title(columns[j], fontsize=7, rotation=40, ha="left", va="bottom", pad=3)
            if rows and j == (0 if images[i][0] is not None else 1):
                x = (left - 0.08) / width
                y = (bottom + side / 2) / height
                figure.text(x, y, rows[i], ha="right", va="center", fontsize=8)
    return result.getvalue()


@contextmanager
def _figure(
    width: float,
    height: float,
    *,
    kind: str = "svg",
    dpi: float = 100,
    layout: str = "constrained",
) -> Iterator[tuple[Any, io.BytesIO]]:
    """A figure that is written into the buffer when the block ends."""
    matplotlib = require("matplotlib", extra="robustness")
    figures = require("matplotlib.figure", extra="robustness")
    buffer = io.BytesIO()
    settings = {
        "axes.axisbelow": True,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "axes.labelsize": 9,
        "axes.linewidth": 0.8,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 10,
        "font.size": 9,
        "grid.color": _GRID,
        "legend.fontsize": 9,
        "lines.linewidth": 1.6,
        "svg.hashsalt": "regrow",
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
    }
    # `Figure` without pyplot keeps no list of open figures and takes no part in back-end choice.
    with matplotlib.rc_context(settings):
        figure = figures.Figure(figsize=(width, height), layout=layout, dpi=dpi)
        yield figure, buffer
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(buffer, format=kind, metadata=metadata)
