"""How a classifier is trained: one recipe, the same for every arm of a comparison."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from regrow._checks import check_choice, check_count, check_fraction


@final
@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with Nesterov momentum on randomly shifted images.

    Momentum, weight decay and augmentation default to what the published codes of sparse training
    use on CIFAR (hard_sample_learners, ITOP, GraNet).

    Args:
        epochs: Passes over the training images, at least 1.
        batch_size: Images a step, at least 1. What is left of an epoch after its last full batch
            is not used in that epoch.
        lr: Learning rate at the start, above 0.
        schedule: ``"steps"``: a tenth of it after 1/2 and a hundredth after 3/4 of the steps (the
            same codes); ``"cosine"``: a quarter wave down to 0 (Loshchilov & Hutter, ICLR 2017).
        momentum: In [0, 1).
        weight_decay: L2 penalty on all parameters, at least 0.
        padding: Largest random shift in pixels.
        flip: Whether images are mirrored at random; not for digits.

    Raises:
        TypeError: An argument has another type.
        ValueError: An argument is out of its range.
    """

    epochs: int
    batch_size: int
    lr: float
    schedule: str = "steps"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    padding: int = 4
    flip: bool = False

    def __post_init__(self) -> None:
        check_count(self.epochs, "epochs")
        check_count(self.batch_size, "batch_size")
        check_choice(self.schedule, "schedule", ("steps", "cosine"))
        check_fraction(self.momentum, "momentum")
        check_count(self.padding, "padding", least=0)
        if not isinstance(self.lr, int | float) or not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be a finite number above 0, got {self.lr!r}")
        if not isinstance(self.weight_decay, int | float) or not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay!r}")

    def steps_per_epoch(self, n_samples: int) -> int:
        """Weight steps of one pass over ``n_samples`` images.

        Raises:
            ValueError: There are fewer images than one batch needs.
        """
        if n_samples < self.batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is more than the {n_samples} training images"
            )
        return n_samples // self.batch_size

    def n_steps(self, n_samples: int) -> int:
        """Weight steps of the whole training on ``n_samples`` images."""
        return self.epochs * self.steps_per_epoch(n_samples)

    def lr_at(self, step: int, *, n_steps: int) -> float:
        """Learning rate of a weight step, counted from 0 to ``n_steps - 1``."""
        progress = step / n_steps
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * progress)) / 2
        return self.lr * (1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01)

    def optimizer(self, model: nn.Module) -> torch.optim.SGD:
        """A fresh optimizer of the model's parameters."""
        return torch.optim.SGD(
            model.parameters(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.momentum > 0,
        )
