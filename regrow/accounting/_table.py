"""Plain-text tables."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    n_left: int = 1,
    last_left: bool = False,
) -> str:
    """Set a table in aligned columns.

    Args:
        header: One title a column. A title may have several lines.
        rows: One string a column in every row.
        n_left: How many of the first columns are aligned to the left; the others are numbers and
            aligned to the right.
        last_left: Whether the last column is aligned to the left as well.

    Returns:
        The lines, joined by line ends, without one at the end.

    Raises:
        ValueError: A row has another number of columns than the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} columns, the header {len(header)}: {row!r}")
    titles = [title.split("\n") for title in header]
    n_lines = max(len(lines) for lines in titles)
    # Short titles stand on the last line, next to the numbers.
    head = [[*[""] * (n_lines - len(lines)), *lines] for lines in titles]
    lines = [[column[i] for column in head] for i in range(n_lines)]
    widths = [max(len(line[i]) for line in [*lines, *rows]) for i in range(len(header))]
    left = {*range(n_left), *([len(header) - 1] if last_left else [])}

    def set_line(cells: Sequence[str]) -> str:
        columns = zip(cells, widths, strict=True)
        aligned = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(columns)]
        return "  ".join(aligned).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([*map(set_line, lines), rule, *map(set_line, rows)])


def in_units(number: float, unit: str = "") -> str:
    """A count with three digits and a metric prefix: 8.18 G."""
    prefixes = ["", "k", "M", "G", "T", "P"]
    while abs(number) >= 999.5 and len(prefixes) > 1:
        number /= 1000
        prefixes.pop(0)
    whole = not prefixes[0] and number == round(number)
    digits = f"{number:.0f}" if whole else f"{number:.3g}"
    return f"{digits} {prefixes[0]}{unit}".rstrip()
