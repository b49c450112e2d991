"""`regrow plan`: what a method would do to a model."""

import difflib

import click
from torch import nn

from regrow._optional import require
from regrow.cli._options import comma_list, one_line_errors
from regrow.models import NAMES, build
from regrow.study import ALLOCATIONS, DENSE, METHODS
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
@click.option(
    "--sparsity",
    type=float,
    default=0.9,
    show_default=True,
    help="Share of zeros in [0, 1) over all weights that are made sparse.",
)
@click.option(
    "--input-size",
    callback=comma_list(int),
    metavar="C,H,W",
    help="Shape of one input, for the FLOPs.  [default: 3,224,224 for torchvision's "
    "models, 3,32,32 for small-image forms, otherwise none]",
)
@click.option(
    "--allocation",
    type=click.Choice(ALLOCATIONS),
    default="erdos_renyi_kernel",
    show_default=True,
    help="How much of the sparsity each layer gets.",
)
@click.option(
    "--classes",
    type=click.IntRange(2),
    metavar="N",
    help="Number of classes.  [default: 1000 for torchvision's models, otherwise 10]",
)
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
    module, usual_size = _find_model(model, classes)
    size = input_size or usual_size
    try:
        made = plan_of(
            module, method=method, sparsity=sparsity, input_size=size, allocation=allocation
        )
    except AssertionError as error:  # timm's way to refuse an input
        raise ValueError(f"the model cannot take an input of shape {size}: {error}") from error
    click.echo(str(made))


def _find_model(name: str, n_classes: int | None) -> tuple[nn.Module, tuple[int, ...] | None]:
    """A model by name, and the shape of its usual input where there is one."""
    if name in NAMES or ":" in name:
        return build(name, n_classes or 10), (3, 32, 32) if name in NAMES else None
    models = require("torchvision.models", extra="robustness")
    known = models.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, [*NAMES, *known], n=3)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise ValueError(f"model {name!r} is neither ours nor torchvision's{hint}")
    return models.get_model(name, weights=None, num_classes=n_classes or 1000), (3, 224, 224)
