"""A study that has been checked and may begin: what its runs share."""

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

import regrow
from regrow import TopologyUpdater
from regrow.data import ImageData
from regrow.errors import SparsityError
from regrow.models import match_parameters
from regrow.robustness._settings import Settings
from regrow.study import Cell, Images, RewiringSchedule, attach_method, rewiring_schedule, seeded

logger = logging.getLogger(__name__)

EQUAL = "dense-equal-parameters"
# Sets up to this size lie on the GPU beside the model.
_DEVICE_BYTES = 2**31


@final
@dataclass(frozen=True)
class Job:
    """What all runs of a study share.

    Args:
        settings: What is compared.
        model_name: What the model is called in tables.
        build: ``build(n_classes)`` or ``build(n_classes, width=...)``: a model with fresh weights.
        data: Training and test images.
        train: The training images as training wants them.
        test: The test images as evaluation wants them.
        n_steps: Weight steps of every run.
        schedule: When methods that rewire do so; None where there is no such method.
        widths: Sparsity -> width of the dense model with as many parameters.
        refused: Sparsity -> why there is no such model.
        n_parameters: Parameters of the dense model.
    """

    settings: Settings
    model_name: str
    build: Callable[..., nn.Module]
    data: ImageData
    train: Images
    test: Images
    n_steps: int
    schedule: RewiringSchedule | None
    widths: Mapping[float, Any]
    refused: Mapping[float, str]
    n_parameters: int

    @property
    def device(self) -> torch.device:
        """Where models are trained."""
        return torch.device(self.settings.device)

    def cells(self) -> list[Cell]:
        """The runs, without arms that were refused."""
        return [
            cell
            for cell in self.settings.cells()
            if cell.method != EQUAL or cell.sparsity in self.widths
        ]

    def model(self, cell: Cell) -> nn.Module:
        """A run's model with its initial weights, which depend on the seed and the width only."""
        width = self.widths[cell.sparsity] if cell.method == EQUAL else None
        return _built(self.build, self.data.n_classes, cell.seed, width).to(self.device)

    def attach(
        self, cell: Cell, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> TopologyUpdater | None:
        """Make a run's model sparse by the run's method."""
        return attach_method(
            cell.method,
            model,
            optimizer,
            sparsity=cell.sparsity,
            n_steps=self.n_steps,
            schedule=self.schedule,
            seed=cell.seed,
            allocation=self.settings.allocation,
            weight_step=self.settings.weight_step,
        )


def prepare(
    build: Callable[..., nn.Module], data: ImageData, *, settings: Settings, model_name: str
) -> Job:
    """Check that every run of a study can begin. Touches no file.

    Args:
        build: ``build(n_classes)``, or ``build(n_classes, width=...)`` for the arm of equal
            parameters, gives a model with fresh weights.
        data: Training and test images.
        settings: What is compared.
        model_name: What the model is called in tables.

    Returns:
        The study, ready to run.

    Raises:
        ValueError: A run would be too short, a sparsity cannot be met, or the model does not fit
            the images.
    """
    train, test = _image_sets(data, settings.device)
    recipe = settings.recipe
    steps_per_epoch = recipe.steps_per_epoch(len(train))
    n_steps = recipe.n_steps(len(train))
    schedule = None
    if settings.rewires:
        schedule = rewiring_schedule(
            n_steps,
            rewirings=settings.rewirings,
            interval=settings.interval,
            steps_per_epoch=steps_per_epoch,
        )
    example = train.normalised(train.pixels[:2]).cpu()
    model = _built(build, data.n_classes, 0, None)
    _check_output(model, example, data.n_classes)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    widths: dict[float, Any] = {}
    refused: dict[float, str] = {}
    for sparsity in settings.sparsities:
        live = _live_parameters(model, example, sparsity=sparsity, allocation=settings.allocation)
        if EQUAL in settings.methods:
            try:
                widths[sparsity] = match_parameters(build, data.n_classes, live)
            except SparsityError as error:
                refused[sparsity] = str(error)
                logger.warning("no %s at sparsity %g: %s", EQUAL, sparsity, error)
    job = Job(
        settings, model_name, build, data, train, test, n_steps, schedule, widths, refused,
        n_parameters,
    )  # fmt: skip
    if not job.cells():
        raise ValueError(f"no arm is left: {'; '.join(refused.values())}")
    return job


def _image_sets(data: ImageData, device: str) -> tuple[Images, Images]:
    sets = []
    for name, images, labels in (
        ("train images", data.train_images, data.train_labels),
        ("test images", data.test_images, data.test_labels),
    ):
        one = Images.from_arrays(images, labels, mean=data.mean, std=data.std, name=name)
        sets.append(one.to(torch.device(device)) if images.nbytes <= _DEVICE_BYTES else one)
    return sets[0], sets[1]


def _built(build: Callable[..., nn.Module], n_classes: int, seed: int, width: object) -> nn.Module:
    # On the CPU, so that a seed's initial weights are the same on every device.
    with seeded(seed, "model", device=torch.device("cpu")):
        model = build(n_classes) if width is None else build(n_classes, width=width)
    if not isinstance(model, nn.Module):
        raise TypeError(f"build_model must return a torch.nn.Module, got {type(model).__name__}")
    return model


@torch.no_grad()
def _check_output(model: nn.Module, example: torch.Tensor, n_classes: int) -> None:
    try:
        shape = tuple(copy.deepcopy(model).eval()(example).shape)
    except (RuntimeError, ValueError, AssertionError) as error:  # timm asserts
        raise ValueError(
            f"the model cannot take images of shape {tuple(example.shape[1:])}: {error}"
        ) from error
    if shape != (len(example), n_classes):
        raise ValueError(
            f"the model gives {shape} for {len(example)} images of {n_classes} classes; expected "
            f"{(len(example), n_classes)}"
        )


def _live_parameters(
    model: nn.Module, example: torch.Tensor, *, sparsity: float, allocation: str
) -> int:
    """Parameters that a sparse arm has: all of them less its dead weights."""
    model = copy.deepcopy(model).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = attach_method("static", model, optimizer, sparsity=sparsity, allocation=allocation)
    topologies = {} if updater is None else updater.topologies
    return int(regrow.count(model, example, topologies).live_parameters)
