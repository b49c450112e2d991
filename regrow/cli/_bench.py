"""`regrow bench`: whether truly sparse layers would be faster than a model's own."""

import click
import torch
from torch import Tensor, nn

from regrow._checks import check_count
from regrow.allocation import RULES
from regrow.cli import _options as options
from regrow.cli._errors import one_line_errors
from regrow.cli._models import find_model
from regrow.training import BenchReport
from regrow.training import bench as bench_of


@click.command(short_help="Measure a model's layers dense, masked and truly sparse.")
@click.argument("model", metavar="MODEL")
@options.input_shape("--input-shape", purpose="without the batch")
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Inputs of a batch: that of the training, or of the serving.",
)
@options.sparsity("would be sparse")
@options.allocation
@click.option(
    "--backends",
    callback=options.comma_list(str),
    metavar="NAME,...",
    help="Of numba, torch and reference.  [default: numba and torch, where they can run]",
)
@click.option(
    "--inference",
    is_flag=True,
    help="Time forward passes without gradients, as in serving, in place of training steps.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=7,
    show_default=True,
    help="How often each step is timed; the least counts.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    metavar="N",
    help="Threads of torch.  [default: as torch chooses]",
)
@options.classes
@one_line_errors
def bench(
    model: str,
    input_shape: tuple[int, ...] | None,
    batch_size: int,
    sparsity: float,
    allocation: str,
    backends: tuple[str, ...] | None,
    inference: bool,
    rounds: int,
    threads: int | None,
    classes: int | None,
) -> None:
    """Measure, on this machine, a training step of each layer of MODEL and the bytes it holds.

    MODEL is a form for small images (small-cnn, resnet18, ...), a model of torchvision such as
    resnet50, or package.module:function, which is given the number of classes. Each layer runs
    dense, masked and truly sparse on what one batch of random inputs gives it. With --inference it
    is the forward pass alone, dense and truly sparse.
    """
    module, usual_shape = find_model(model, classes)
    shape = input_shape or usual_shape
    if shape is None:
        raise ValueError(f"give --input-shape for {model!r}: one input's, such as 3,32,32")
    shape = tuple(check_count(size, "input_shape") for size in shape)
    inputs = torch.randn(batch_size, *shape, generator=torch.Generator().manual_seed(0))
    if threads is not None:
        torch.set_num_threads(threads)
    click.echo(
        str(
            _measured(
                module,
                inputs,
                sparsity=sparsity,
                allocation=allocation,
                backends=backends,
                inference=inference,
                rounds=rounds,
            )
        )
    )


def _measured(
    module: nn.Module,
    inputs: Tensor,
    *,
    sparsity: float,
    allocation: str,
    backends: tuple[str, ...] | None,
    inference: bool,
    rounds: int,
) -> BenchReport:
    try:
        return bench_of(
            module,
            inputs,
            sparsity=sparsity,
            allocation=RULES[allocation](),
            backends=backends,
            inference=inference,
            rounds=rounds,
        )
    except (RuntimeError, AssertionError) as error:  # (the latter is timm's way)
        raise ValueError(
            f"the model cannot take inputs of shape {tuple(inputs.shape)}: {error}"
        ) from error
