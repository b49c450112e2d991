"""Errors that the library explains, in one line."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

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
