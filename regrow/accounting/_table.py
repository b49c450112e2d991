"""Plain-text tables."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Columns padded to their widest cell.

    Args:
        header: Column names.
        rows: Cells; as many a row as the header has.
        left: So many first columns, and the last one, are aligned left; the others right.
    """
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    last = len(header) - 1

    def render(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if i < left or i == last else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([render(lines[0]), rule, *[render(line) for line in lines[1:]]])


def in_units(number: float, unit: str = "") -> str:
    """A count with three digits and a metric prefix: 8.18 G."""
    prefixes = ["", "k", "M", "G", "T", "P"]
    while abs(number) >= 999.5 and len(prefixes) > 1:
        number /= 1000
        prefixes.pop(0)
    whole = not prefixes[0] and number == round(number)
    digits = f"{number:.0f}" if whole else f"{number:.3g}"
    return f"{digits} {prefixes[0]}{unit}".rstrip()
