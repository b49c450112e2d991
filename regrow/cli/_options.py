"""Options that several commands have, and lists on the command line."""

from collections.abc import Callable
from typing import Any

import click

from regrow.allocation import RULES

Command = Callable[..., Any]
Option = Callable[[Command], Command]


def comma_list(
    kind: type, *, form: str = ""
) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """A callback that turns ``"a,b"`` into a tuple of values.

    Args:
        kind: ``str``, ``int`` or ``float``.
        form: What is expected, where the error of ``kind`` does not say it well.
    """

    def split(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:  # noqa: ANN401
        if text is None:
            return None
        try:
            values = tuple(kind(part.strip()) for part in text.split(",") if part.strip())
        except ValueError as error:
            wrong = f"must be {form}, got {text!r:.80}" if form else str(error)
            raise click.BadParameter(wrong, context, parameter) from error
        if not values:
            raise click.BadParameter("is empty", context, parameter)
        return values

    return split


allocation = click.option(
    "--allocation",
    type=click.Choice(tuple(RULES)),
    default="erdos_renyi_kernel",
    show_default=True,
    help="How much of the sparsity each layer gets.",
)
"""``--allocation``: the name of a rule."""

classes = click.option(
    "--classes",
    type=click.IntRange(2),
    metavar="N",
    help="Number of classes.  [default: 1000 for torchvision's models, otherwise 10]",
)
"""``--classes``: what ``find_model`` takes."""


def sparsity(weights: str) -> Option:
    """``--sparsity`` of a whole model.

    Args:
        weights: Which weights count, the end of the help.
    """
    return click.option(
        "--sparsity",
        type=float,
        default=0.9,
        show_default=True,
        help=f"Share of zeros in [0, 1) over all weights that {weights}.",
    )


def input_shape(flag: str, *, purpose: str, otherwise: str | None = None) -> Option:
    """The shape of one input, by default that which ``find_model`` knows of.

    Args:
        flag: Such as ``"--input-shape"``.
        purpose: What the help says of it.
        otherwise: The default of other models; None: there is none, and the help is silent.
    """
    last = "" if otherwise is None else f", otherwise {otherwise}"
    return click.option(
        flag,
        callback=comma_list(int, form="whole numbers with commas, such as 3,32,32 or 784"),
        metavar="C,H,W",
        help=f"Shape of one input, {purpose}.  [default: 3,224,224 for torchvision's models, "
        f"3,32,32 for small-image forms{last}]",
    )


def frost(left_out: str) -> Option:
    """``--frost``: the folder of its photographs.

    Args:
        left_out: What is left out without them.
    """
    return click.option(
        "--frost",
        metavar="DIR",
        help="Folder of the photographs of ice frost1.png ... frost5.jpg; without it "
        f"{left_out} is left out.",
    )
