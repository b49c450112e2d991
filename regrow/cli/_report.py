"""`regrow report`: the page of a study, made again."""

import click

from regrow.cli._errors import one_line_errors
from regrow.robustness import write_report


@click.command(short_help="Make the page of a study again from its files.")
@click.argument("folder", metavar="DIR")
@one_line_errors
def report(folder: str) -> None:
    """Make report.html in DIR again from results.csv, runs.csv and config.json there.

    DIR is the --out of a study, complete or not: arms and seeds that are done are shown.
    """
    click.echo(f"Report: {write_report(folder)}")
