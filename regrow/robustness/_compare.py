"""Does dynamic sparse training beat dense training on corrupted images?"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import nn

from regrow._checks import check_fraction
from regrow.data import ImageData
from regrow.robustness._answer import answer
from regrow.robustness._given import Arrays, as_image_data, as_model, as_tuple
from regrow.robustness._job import prepare
from regrow.robustness._recipes import default_recipe
from regrow.robustness._report import write_report
from regrow.robustness._results import Results
from regrow.robustness._settings import DEFAULT_METHODS, DEFAULT_SEVERITIES, Settings
from regrow.robustness._sources import choose_source
from regrow.robustness._study import run_study
from regrow.robustness._summary import Summary, summarise
from regrow.study import DEFAULT_REWIRINGS, Progress, SilentProgress


@final
@dataclass(frozen=True)
class RobustnessStudy:
    """A finished study.

    Args:
        answer: The answer to the question, in one sentence.
        summary: What it says about each arm.
        results: Its tables.
        notes: What was left out, and why.
        folder: Where its files are.
        report: The page that shows it.
    """

    answer: str
    summary: Summary
    results: Results
    notes: tuple[str, ...]
    folder: Path
    report: Path


def compare(
    build_model: str | Callable[..., nn.Module],
    train: ImageData | Arrays,
    test: Arrays | None = None,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    sparsity: float | Sequence[float] = 0.5,
    seeds: int = 3,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    rewirings: int = DEFAULT_REWIRINGS,
    interval: int | None = None,
    weight_step: str = "before",
    allocation: str = "erdos_renyi_kernel",
    corruptions: str | Sequence[str] = "all",
    severities: int | Sequence[int] = DEFAULT_SEVERITIES,
    frost: str | os.PathLike[str] | None = None,
    corrupted: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    amp: bool = False,
    out: str | os.PathLike[str] = "regrow-robustness",
    resume: bool = False,
    name: str = "arrays",
    classes: Sequence[str] | None = None,
    flip: bool = False,
    progress: Progress | None = None,
) -> RobustnessStudy:
    """Train every arm with every seed, corrupt the test images, and compare.

    All arms are trained by one recipe, make the same number of weight steps on the same batches,
    and are measured with the weights of the last epoch; the test images choose nothing. Runs of
    one seed share initial weights, batches and corrupted images, and are compared in pairs. Every
    corrupted set is made once a seed, each image from its own seed, and checked by its SHA-256.

    Args:
        build_model: A model of `regrow.models` by name, ``"package.module:function"``, or a
            function of the number of classes. The arm of equal parameters needs its ``width=``.
        train: A data set of `regrow.data.load`, or images uint8 (N, H, W, 3) and labels (N,).
        test: Test images and labels; left out with a data set.
        methods: Of `regrow.study.METHODS`. ``"dense"`` is trained once a seed, the others once a
            seed and sparsity.
        sparsity: Target sparsity in [0, 1), or several. Default 0.5, the upper end of what the
            hypothesis calls low.
        seeds: Number of paired runs of each arm. Intervals need at least 2. Default 3.
        epochs: Passes over the training images; by default those of the data set's recipe
            (digits 15, mnist 10, others 200).
        batch_size: Images a step; by default 64 for digits, 128 for others.
        lr: Learning rate at the start; by default 0.05 for mnist, 0.1 for others.
        rewirings: How often methods that rewire do so, at least 20; see `rewiring_schedule`.
        interval: Weight steps between rewirings, in place of their number.
        weight_step: Whether a rewiring comes after the weight step (``"before"``, so that all
            arms make as many), before it (``"after"``) or in its place (``"skip"``, RigL's own).
        allocation: ``"erdos_renyi_kernel"``, ``"erdos_renyi"`` or ``"uniform"``.
        corruptions: ``"all"`` that can be had, ``"common"`` (the 15 of the benchmark) or names.
        severities: Of 1..5. Default 1, 3 and 5.
        frost: Folder with the photographs of ice that the corruption ``"frost"`` needs.
        corrupted: Folder of a published corrupted test set in the layout of CIFAR-10-C, read in
            place of making one.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        amp: Train and evaluate in mixed precision.
        out: Folder for tables, checkpoints and the report. While a seed is worked on, its
            corrupted images are there too: the size of the test images times corruptions times
            severities.
        resume: Go on with what ``out`` holds. A run that was killed loses its current epoch.
        name: What a data set of arrays is called.
        classes: Names of its classes.
        flip: Whether mirrored images of it keep their class.
        progress: Where to say how far the study is; nowhere by default.

    Returns:
        The study, with everything also in files below ``out``: ``results.csv``, ``runs.csv``,
        ``curves.csv``, ``config.json``, ``log.txt``, ``report.html`` and a folder for each run.

    Raises:
        FileExistsError: ``out`` holds files, and ``resume`` is False or they are no study.
        FloatingPointError: A training diverged.
        TypeError: An argument is of another type.
        ValueError: An argument is out of range, a sparsity cannot be met, the run is too short for
            20 rewirings, or ``out`` holds a study with other settings. Nothing has been written.

    Sources: Wu et al., "Dynamic sparse training versus dense training: the unexpected winner in
    image corruption robustness" (ICLR 2025); Hendrycks and Dietterich (ICLR 2019).
    """
    data = as_image_data(train, test, name=name, classes=classes, flip=flip)
    model_name, build = as_model(build_model)
    source = choose_source(data, asked=corruptions, severities=as_tuple(severities, int),
                           frost=frost, corrupted=corrupted)  # fmt: skip
    settings = Settings(
        methods=as_tuple(methods, str),
        sparsities=tuple(
            check_fraction(value, "sparsity") for value in as_tuple(sparsity, (int, float))
        ),
        seeds=seeds,
        recipe=default_recipe(
            data.name, flip=data.flip, epochs=epochs, batch_size=batch_size, lr=lr
        ),
        rewirings=rewirings,
        interval=interval,
        weight_step=weight_step,
        allocation=allocation,
        corruptions=source.kinds,
        severities=as_tuple(severities, int),
        device=device,
        amp=amp,
    )
    job = prepare(build, data, settings=settings, model_name=model_name)
    folder, results, notes = run_study(
        job, source, out=Path(out), resume=resume, progress=progress or SilentProgress()
    )
    summary = summarise(results)
    report = write_report(folder)
    return RobustnessStudy(answer(summary), summary, results, notes, folder, report)
