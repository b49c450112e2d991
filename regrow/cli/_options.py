"""What commands share: lists on the command line, and errors in one line."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import click

from regrow.errors import BackendUnavailableError

P = ParamSpec("P")
R = TypeVar("R")


class InputError(click.ClickException):
    """An error of the user's input: one line and exit status 2."""

    exit_code = 2


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Show errors that the library explains as one line, without a traceback.

    Args:
        command: What to run.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (ValueError, TypeError, OSError, BackendUnavailableError) as error:
            raise InputError(" ".join(str(error).split())) from error
        except FloatingPointError as error:
            raise click.ClickException(str(error)) from error

    return run


def comma_list(kind: type) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """A callback that turns ``"a,b"`` into a tuple of values.

    Args:
        kind: ``str``, ``int`` or ``float``.
    """

    def split(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:  # noqa: ANN401
        if text is None:
            return None
        try:
            values = tuple(kind(part.strip()) for part in text.split(",") if part.strip())
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from error
        if not values:
            raise click.BadParameter("is empty", context, parameter)
        return values

    return split
