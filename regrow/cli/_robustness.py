"""`regrow robustness`: the main job."""

from typing import Any

import click

from regrow.cli import _options as options
from regrow.cli._errors import one_line_errors
from regrow.data import NAMES as DATA
from regrow.data import load
from regrow.models import NAMES as MODELS
from regrow.robustness import compare, terminal_text
from regrow.study import METHODS, WEIGHT_STEPS, TerminalProgress

_DATA_OPTIONS = ("data_dir", "download", "train_samples", "test_samples")


@click.command(short_help="Does dynamic sparse training beat dense training on corrupted images?")
@click.option(
    "--data",
    type=click.Choice(DATA),
    default="digits",
    show_default=True,
    help="Images. The digits come with scikit-learn and need no network.",
)
@click.option(
    "--data-dir",
    metavar="DIR",
    help="Folder of the data set: torchvision's layout, or NAME.npz; tiny-imagenet-200 or what "
    "holds it; train/ and val/ of class folders for imagenet and imagefolder; a file for npz.",
)
@click.option("--download", is_flag=True, help="Let torchvision fetch mnist, cifar10 or cifar100.")
@click.option(
    "--train-samples",
    type=click.IntRange(1),
    metavar="N",
    help="Use a stratified part of the training images.  [default: all]",
)
@click.option(
    "--test-samples",
    type=click.IntRange(1),
    metavar="N",
    help="Use a stratified part of the test images.  [default: all]",
)
@click.option(
    "--model",
    default="small-cnn",
    show_default=True,
    metavar="NAME",
    help=f"{', '.join(MODELS)}, or package.module:function, which is given the number "
    "of classes, as torchvision.models:mobilenet_v2; the arm of equal parameters needs it to "
    "take width=, width_mult=, width_per_group= or base_width= too.",
)
@click.option(
    "--methods",
    default="dense,dense-equal-parameters,static,set,rigl",
    show_default=True,
    callback=options.comma_list(str),
    metavar="A,B",
    help=f"Arms, of: {', '.join(METHODS)}.",
)
@click.option(
    "--sparsity",
    default="0.5",
    show_default=True,
    callback=options.comma_list(float),
    metavar="S,T",
    help="Target sparsities in [0, 1).",
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    metavar="N",
    help="Paired runs of each arm. One seed gives no interval.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    metavar="N",
    help="Passes over the training images.  [default: digits 15, mnist 10, others 200]",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    metavar="N",
    help="Images a weight step.  [default: digits 64, others 128]",
)
@click.option(
    "--lr",
    type=float,
    metavar="X",
    help="Learning rate; a tenth of it after 1/2, a hundredth after 3/4 of the steps.  "
    "[default: mnist 0.05, others 0.1]",
)
@click.option(
    "--rewirings",
    type=int,
    default=60,
    show_default=True,
    metavar="N",
    help="How often dynamic methods rewire, all in the first 3/4 of the steps; fewer "
    "where two would be less than 5 steps apart, never fewer than 20.",
)
@click.option(
    "--interval",
    type=click.IntRange(1),
    metavar="N",
    help="Weight steps between rewirings; their number then follows.",
)
@click.option(
    "--weight-step",
    type=click.Choice(WEIGHT_STEPS),
    default="before",
    show_default=True,
    help="In a step that rewires, move the weights before, after, or "
    "not at all (skip: fewer weight steps than the other arms).",
)
@options.allocation
@click.option(
    "--severities",
    default="1,3,5",
    show_default=True,
    callback=options.comma_list(int),
    metavar="A,B",
    help="Severities of the corruptions, of 1 to 5.",
)
@click.option(
    "--corruptions",
    default="all",
    show_default=True,
    callback=options.comma_list(str),
    metavar="A,B",
    help="all, common (the 15 of the benchmark), or names.",
)
@options.frost("the corruption frost")
@click.option(
    "--corrupted",
    metavar="DIR",
    help="Folder of a published corrupted test set, such "
    "as CIFAR-10-C, Tiny-ImageNet-C or ImageNet-C, read in place of corrupting the test images.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--amp", is_flag=True, help="Mixed precision.")
@click.option(
    "--out",
    default="regrow-robustness",
    show_default=True,
    metavar="DIR",
    help="Folder for tables, checkpoints and the report.",
)
@click.option(
    "--resume", is_flag=True, help="Go on with what is in --out, which must have the same settings."
)
@one_line_errors
def robustness(**given: Any) -> None:  # noqa: ANN401  # click passes options by name
    """Does dynamic sparse training beat dense training on corrupted images?

    Trains every arm with every seed, corrupts the test images in up to 19 ways, and compares the
    accuracies in pairs of equal seed. Without options: small networks on handwritten digits, in a
    few minutes on two cores and without a network.

    The answer is yes for an arm if the 95 % interval of its difference to dense training lies
    above 0, and rewiring is the reason only if the same holds for its difference to static sparse
    training. A gain on corrupted images that costs clean accuracy is a trade, so both are shown.

    Writes results.csv, runs.csv, curves.csv, config.json, log.txt, checkpoints and report.html
    below --out. A study that was stopped goes on with the same command and --resume.
    """
    data = load(given.pop("data"), **{name: given.pop(name) for name in _DATA_OPTIONS})
    corruptions = given.pop("corruptions")
    if corruptions in (("all",), ("common",)):
        (corruptions,) = corruptions
    out = given["out"]
    try:
        study = compare(
            given.pop("model"),
            data,
            corruptions=corruptions,
            progress=TerminalProgress(),
            **given,
        )
    except KeyboardInterrupt:
        click.echo(f"\nStopped. The same command with --resume goes on with {out}.", err=True)
        raise SystemExit(130) from None
    click.echo(terminal_text(study.summary))
    for note in study.notes:
        click.echo(note)
    click.echo(
        f"\nReport: {study.report}\nTables: {study.folder / 'results.csv'}, "
        f"{study.folder / 'runs.csv'}"
    )
