"""The command line: `regrow robustness`, `report`, `plan`, `bench` and `corrupt`."""

import os
import sys
from collections.abc import Sequence

from regrow._optional import require
from regrow.errors import BackendUnavailableError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process.

    Args:
        arguments: What stands behind the program's name; by default what this process was started
            with.
    """
    try:
        require("click", extra="cli")
    except BackendUnavailableError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(2) from error
    # Models of one's own, package.module:function, mostly lie in the current folder. Last, so
    # that nothing there can take the place of an installed package.
    if os.getcwd() not in sys.path:  # noqa: PTH109  # sys.path holds strings
        sys.path.append(os.getcwd())  # noqa: PTH109
    from regrow.cli._app import app

    app(args=None if arguments is None else list(arguments), prog_name="regrow")
