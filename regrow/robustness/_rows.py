"""What a row of a study's tables may hold, whether it comes from a CSV file or a cell's result."""

from collections.abc import Mapping, Sequence
from typing import Any

from regrow._checks import check_choice
from regrow.study import METHODS

RUN = ("data", "model", "method", "sparsity", "seed")
RESULT_COLUMNS = (*RUN, "corruption", "severity", "accuracy", "n_images")
COUNTS = ("nnz", "parameters", "live_parameters", "rewirings", "weight_steps")
COSTS = ("training_flops", "inference_flops", "bytes", "seconds")
RUN_COLUMNS = (*RUN, *COUNTS, "counted_sparsity", "exploration", *COSTS)
CURVE_COLUMNS = (*RUN, "epoch", "loss", "accuracy", "lr", "rewirings", "exploration")
TEXTS = ("data", "model", "method", "corruption")
WHOLE = ("seed", "severity", "n_images", "epoch", *COUNTS, "training_flops", "inference_flops",
         "bytes")  # fmt: skip
_FRACTIONS = ("sparsity", "accuracy", "counted_sparsity", "exploration")
_LARGEST = 10**30
"""Above any count, and small enough for every unit that a table writes it in."""

_LONGEST = 200

Row = Mapping[str, Any]


def check_row(row: object, columns: Sequence[str]) -> Row:
    """A row's values in the order of its columns.

    Args:
        row: Column -> value.
        columns: The columns that it must have, and no others.

    Raises:
        ValueError: A column is missing or unknown, or a value is of another type or out of range.
    """
    if not isinstance(row, Mapping) or row.keys() != set(columns):
        raise ValueError(f"expected is a row with the columns {', '.join(columns)}")
    for name in columns:
        _check_value(name, row[name])
    return {name: row[name] for name in columns}


def check_rows(rows: object, columns: Sequence[str]) -> list[Row]:
    """The same for a list of rows.

    Raises:
        ValueError: As above, or no list.
    """
    if not isinstance(rows, list):
        raise ValueError(f"expected is a list of rows, got {type(rows).__name__}")  # noqa: TRY004
    return [check_row(row, columns) for row in rows]


def check_accuracies(rows: object) -> list[dict[str, Any]]:
    """Accuracies of one run: no set of images twice.

    Raises:
        ValueError: They are not that.
    """
    checked = check_rows(rows, ("corruption", "severity", "accuracy"))
    sets = [(row["corruption"], row["severity"]) for row in checked]
    if len(set(sets)) < len(sets):
        raise ValueError("a set of images is there twice")
    return [dict(row) for row in checked]


def read_value(name: str, field: str) -> str | int | float:
    """The value that a field of a CSV file stands for.

    Raises:
        ValueError: It stands for none.
    """
    if name in TEXTS:
        return field
    return int(field) if name in WHOLE else float(field)


def _check_value(name: str, value: object) -> None:
    if name in TEXTS:
        if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= _LONGEST:
            raise ValueError(f"{name} must be a name of up to {_LONGEST} printable characters")
        if name == "method":
            check_choice(value, "method", METHODS)
        return
    if type(value) is not int and (name in WHOLE or type(value) is not float):
        kind = "an integer" if name in WHOLE else "a number"
        raise ValueError(f"{name} must be {kind}, got {type(value).__name__}")
    number: float = value
    most = 1 if name in _FRACTIONS else 5 if name == "severity" else _LARGEST
    # (A mean of losses is at least 0 but for rounding.)
    least = -1 if name == "loss" else 0
    if not least <= number <= most:
        raise ValueError(f"{name} must lie in [{least}, {most:g}]")
