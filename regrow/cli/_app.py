"""The group of commands."""

import click

import regrow
from regrow.cli._bench import bench
from regrow.cli._corrupt import corrupt
from regrow.cli._plan import plan
from regrow.cli._report import report
from regrow.cli._robustness import robustness


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(regrow.__version__, prog_name="regrow")
def app() -> None:
    """Train neural networks that are sparse from the first step to the last.

    Start with `regrow robustness`, which needs no argument and no network.
    """


for command in (robustness, report, plan, bench, corrupt):
    app.add_command(command)
