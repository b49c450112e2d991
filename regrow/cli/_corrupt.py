"""`regrow corrupt`: a picture of all corruptions."""

from pathlib import Path

import click

from regrow.cli import _options as options
from regrow.cli._errors import one_line_errors
from regrow.robustness import corruption_sheet


@click.command(short_help="Draw an image under every corruption.")
@click.argument("image")
@click.option(
    "--out",
    metavar="PNG",
    help="Picture to write.  [default: IMAGE-corrupted.png in the current folder]",
)
@click.option(
    "--severity",
    type=click.IntRange(1, 5),
    default=3,
    show_default=True,
    help="Severity of the corruptions.",
)
@options.frost("frost")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the random corruptions.",
)
@one_line_errors
def corrupt(image: str, out: str | None, severity: int, frost: str | None, seed: int) -> None:
    """Draw IMAGE under every corruption at one severity, in one PNG.

    The middle square of the image is resized to 224, 64 or 32 pixels, the largest that does not
    enlarge it: the sizes for which the benchmark has constants.
    """
    target = out or f"{Path(image).stem}-corrupted.png"
    path = corruption_sheet(image, out=target, severity=severity, frost=frost, seed=seed)
    click.echo(f"Picture: {path}")
