"""Training a classifier, epoch by epoch, so that it can be killed and go on bit for bit."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regrow.study._checkpoint import load_state, save_state
from regrow.study._evaluation import autocast
from regrow.study._images import Images, crop_and_flip
from regrow.study._recipe import Recipe
from regrow.study._resume import check_model, check_optimizer, check_training
from regrow.study._seeding import seeded
from regrow.topology import derived_generator

logger = logging.getLogger(__name__)

# A loss scale of 65536 that halves at each overflow reaches 1 after 16 tries.
_MOST_OVERFLOWS = 40


class SparseState(Protocol):
    """What training needs of a topology updater."""

    @property
    def rewirings(self) -> int:
        """Rewirings done."""

    @property
    def exploration(self) -> float | None:
        """Share of connections that were ever active, in [0, 1]; None where that is not kept."""

    def state_dict(self) -> Mapping[str, Any]:
        """All that resuming needs."""

    def load_state_dict(self, state: Any) -> None:  # noqa: ANN401  # the updater's own type
        """Go on from a saved state."""


@final
@dataclass
class Training:
    """How far a training is.

    Args:
        epochs: Epochs done.
        weight_steps: Optimizer steps performed.
        seconds: Time spent training, all sessions together; without checkpoints and evaluation.
        history: For each epoch done: ``epoch`` (from 1), ``loss`` and ``accuracy`` on the training
            batches, ``lr`` of its last step, ``rewirings`` and ``exploration`` at its end.
    """

    epochs: int = 0
    weight_steps: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def train_classifier(
    model: nn.Module,
    images: Images,
    *,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    updater: SparseState | None = None,
    seed: int,
    checkpoint: Path | None = None,
    device: torch.device | str = "cpu",
    amp: bool = False,
    on_step: Callable[[], None] | None = None,
) -> Training:
    """Train a model to the end of its recipe, from its checkpoint where there is one.

    The order of the images, their augmentation and the dropout depend on the seed, the epoch and
    the batch, never on what ran before; so a run that is killed and started again with the same
    arguments ends with the same weights to the last bit, on the same machine and versions.

    Args:
        model: On ``device``, with initial weights.
        images: The training set, on any device.
        recipe: How to train.
        optimizer: Of the model's parameters, made by ``recipe.optimizer``; its learning rate is
            set at each step.
        updater: What rewires the model, attached to the optimizer; None for dense training.
        seed: The run's seed.
        checkpoint: File that is replaced after each epoch and read at the start; None to keep none.
        device: Where the model is.
        amp: Mixed precision: float16 with loss scaling on a GPU, where a batch that overflows is
            tried again with a smaller scale, so that every run makes all its weight steps; bfloat16
            on a CPU.
        on_step: Called after each weight step.

    Returns:
        The finished training.

    Raises:
        FloatingPointError: The loss is not finite any more.
        ValueError: A layer is truly sparse; or the checkpoint is damaged, or of another training;
            model, optimizer and updater are as they were.
    """
    explored(updater)
    device = torch.device(device)
    loop = _Loop(model, images, recipe, optimizer, updater, seed, device, amp=amp)
    if checkpoint is not None and checkpoint.exists():
        loop.restore(load_state(checkpoint), checkpoint)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        while loop.training.epochs < recipe.epochs:
            loop.run_epoch(on_step)
            if checkpoint is not None:
                save_state(checkpoint, loop.state())
    return loop.training


def explored(updater: SparseState | None) -> float:
    """Share of connections that were ever active; 1 of a dense model.

    Raises:
        ValueError: The updater does not keep it.
    """
    share = 1.0 if updater is None else updater.exploration
    if share is None:
        raise ValueError(
            "the model has truly sparse layers, which do not keep what was ever active, and a "
            "study reports it: use masked layers (regrow.nn.densify_)"
        )
    return share


class _Loop:
    """One training under way."""

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        recipe: Recipe,
        optimizer: torch.optim.Optimizer,
        updater: SparseState | None,
        seed: int,
        device: torch.device,
        *,
        amp: bool,
    ) -> None:
        self.model, self.images, self.recipe = model, images, recipe
        self.optimizer, self.updater = optimizer, updater
        self.seed, self.device, self.amp = seed, device, amp
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp and device.type == "cuda")
        self.training = Training()
        self.n_steps = recipe.n_steps(len(images))

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {
            "training": vars(self.training),
            "n_steps": self.n_steps,
            "seed": self.seed,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updater": None if self.updater is None else self.updater.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: Mapping[str, Any], path: Path) -> None:
        """Go on from a state that `state` gave."""
        expected = {"seed": self.seed, "n_steps": self.n_steps}
        found = {name: state.get(name) for name in expected}
        if found != expected or (state.get("updater") is None) != (self.updater is None):
            raise ValueError(f"{path} is of another training: it has {found}, not {expected}")
        try:
            done = check_training(
                state.get("training"), epochs=self.recipe.epochs, n_steps=self.n_steps
            )
            check_model(state.get("model"), self.model)
            check_optimizer(state.get("optimizer"), self.optimizer)
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(state["scaler"])
            if self.updater is not None:
                # It refuses a state in full, so that model and optimizer stay as they are.
                self.updater.load_state_dict(state["updater"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged or of another training: {error}. Remove it to train from the "
                "start"
            ) from error
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.updater is not None:
            self.updater.load_state_dict(state["updater"])  # zeros where the file had none
        self.training = Training(**done)

    def run_epoch(self, on_step: Callable[[], None] | None) -> None:
        """Train for one epoch and add a line to the history."""
        training, recipe, n = self.training, self.recipe, len(self.images)
        started = time.perf_counter()
        self.model.train()
        order = torch.randperm(n, generator=derived_generator(self.seed, "order", training.epochs))
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        n_batches = recipe.steps_per_epoch(n)
        with seeded(self.seed, "dropout", training.epochs, device=self.device):
            for batch in range(n_batches):
                lr = recipe.lr_at(training.weight_steps, n_steps=self.n_steps)
                for group in self.optimizer.param_groups:
                    group["lr"] = lr
                chosen = order[batch * recipe.batch_size : (batch + 1) * recipe.batch_size]
                inputs, labels = self._batch(chosen, batch)
                loss, logits = self._step(inputs, labels)
                training.weight_steps += 1
                total += loss.double()
                correct += (logits.argmax(1) == labels).sum()
                if on_step is not None:
                    on_step()
        mean_loss = total.item() / n_batches
        training.epochs += 1
        training.seconds += time.perf_counter() - started
        line = {
            "epoch": training.epochs,
            "loss": mean_loss,
            "accuracy": correct.item() / (n_batches * recipe.batch_size),
            "lr": lr,
            "rewirings": 0 if self.updater is None else self.updater.rewirings,
            "exploration": explored(self.updater),
        }
        logger.info("epoch %(epoch)d: loss %(loss).4f, accuracy %(accuracy).4f", line)
        if not torch.isfinite(total):
            raise FloatingPointError(
                f"the loss is {mean_loss} in epoch {training.epochs}; a learning rate below "
                f"{recipe.lr:g} would help"
            )
        training.history.append(line)

    def _batch(self, chosen: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        where = chosen.to(self.images.pixels.device)
        pixels = self.images.pixels[where].to(self.device)
        generator = derived_generator(self.seed, "augmentation", self.training.epochs, batch)
        pixels = crop_and_flip(
            pixels, padding=self.recipe.padding, flip=self.recipe.flip, generator=generator
        )
        labels = self.images.labels[where].to(self.device)
        return self.images.normalised(pixels), labels

    def _step(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One performed weight step; returns the loss and the logits, detached."""
        for _ in range(_MOST_OVERFLOWS):
            self.optimizer.zero_grad()
            with autocast(self.device, enabled=self.amp):
                logits = self.model(inputs)
                loss = F.cross_entropy(logits, labels)
            torch.autograd.backward(self.scaler.scale(loss))
            scale = self.scaler.get_scale()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.scaler.get_scale() >= scale:
                return loss.detach(), logits.detach()
        raise FloatingPointError(
            f"gradients overflow in float16 at a loss scale of {scale:g}; train without amp"
        )
