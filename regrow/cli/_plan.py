"""`regrow plan`: what a method would do to a model."""

import click

from regrow.cli import _options as options
from regrow.cli._errors import one_line_errors
from regrow.cli._models import find_model
from regrow.models import NAMES
from regrow.study import DENSE, METHODS
from regrow.study import plan as plan_of

_SPARSE = [method for method in METHODS if method not in DENSE]


@click.command(short_help="Show what a method would make of each tensor of a model.")
@click.option(
    "--model",
    required=True,
    metavar="NAME",
    help=f"{', '.join(NAMES)} (forms for small images), a model of torchvision such as "
    "resnet50, or package.module:function, which is given the number of classes.",
)
@click.option(
    "--method",
    type=click.Choice(_SPARSE),
    default="rigl",
    show_default=True,
    help="Method; those that prune gradually are shown as they begin.",
)
@options.sparsity("are made sparse")
@options.input_shape("--input-size", purpose="for the FLOPs", otherwise="none")
@options.allocation
@options.classes
@one_line_errors
def plan(
    model: str,
    method: str,
    sparsity: float,
    input_size: tuple[int, ...] | None,
    allocation: str,
    classes: int | None,
) -> None:
    """Show, before training, a line for each tensor: shape, connections, sparsity, FLOPs, bytes.

    A tensor that stays dense is listed with the reason.
    """
    module, usual_size = find_model(model, classes)
    size = input_size or usual_size
    try:
        made = plan_of(
            module, method=method, sparsity=sparsity, input_size=size, allocation=allocation
        )
    except AssertionError as error:  # timm's way to refuse an input
        raise ValueError(f"the model cannot take an input of shape {size}: {error}") from error
    click.echo(str(made))
