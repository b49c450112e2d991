"""Tables as CSV files."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from regrow.study._atomic import write_text


def write_csv(
    path: str | os.PathLike[str], rows: Sequence[Mapping[str, object]], *, columns: Sequence[str]
) -> None:
    """Write rows to a CSV file atomically, with a header line.

    Args:
        path: The file to write or replace.
        rows: Column -> value. Floats are written so that they read back to the last bit, None as
            an empty field.
        columns: The columns, in order.

    Raises:
        ValueError: A row has other columns than these.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        if row.keys() != set(columns):
            raise ValueError(f"a row has columns {sorted(row)}; expected {sorted(columns)}")
        writer.writerow(["" if row[name] is None else row[name] for name in columns])
    write_text(path, buffer.getvalue())


def read_csv(path: str | os.PathLike[str], *, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file with a header line.

    Args:
        path: The file.
        columns: Columns that it must have; it may have more.

    Returns:
        Its rows, every value a string.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no CSV text, a column is missing or there twice, or a line is too short
            or too long; the message names the file.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            found = list(reader.fieldnames or ())
            rows = list(reader)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read as a table: {error}") from error
    missing = set(columns) - set(found)
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(sorted(missing))}")
    twice = {name for name in columns if found.count(name) > 1}
    if twice:
        raise ValueError(f"{path} has the columns {', '.join(sorted(twice))} more than once")
    for number, row in enumerate(rows, start=2):
        if None in row or any(row[name] is None for name in columns):
            raise ValueError(f"{path}, line {number}: expected one value for each column")
    return rows
