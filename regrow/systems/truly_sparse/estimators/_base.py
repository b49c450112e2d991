"""What classifier and regressor share: parameters, the loop over epochs, copies and pickles."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from regrow._optional import require
from regrow.systems.truly_sparse._importance import ImportancePruning
from regrow.systems.truly_sparse._model import Activation, sparse_mlp
from regrow.systems.truly_sparse._recipe import Loss, Recipe
from regrow.systems.truly_sparse._samples import Inputs, Samples, predict
from regrow.systems.truly_sparse._trainer import SetTrainer
from regrow.systems.truly_sparse.estimators._patience import Patience
from regrow.systems.truly_sparse.estimators._weights import beside, without_zeros

BaseEstimator: Any = require("sklearn.base", extra="sklearn").BaseEstimator
validation = require("sklearn.utils.validation", extra="sklearn")
selection = require("sklearn.model_selection", extra="sklearn")
utils = require("sklearn.utils", extra="sklearn")

FLOATS = [np.float64, np.float32]


class SparseMLP(BaseEstimator):  # type: ignore[misc]
    """Parameters and training of both estimators; the classes that users see describe them."""

    _loss: Loss

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (1000, 1000, 1000),
        *,
        epsilon: float = 20,
        activation: Activation = "all_relu",
        slope: float = 0.6,
        dropout: float = 0.3,
        drop_fraction: float = 0.3,
        importance: ImportancePruning | None = None,
        rewire_interval: int | None = None,
        learning_rate_init: float = 0.01,
        momentum: float = 0.9,
        alpha: float = 2e-4,
        max_grad_norm: float | None = 1.0,
        batch_size: int = 128,
        max_iter: int = 200,
        tol: float = 1e-4,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.epsilon = epsilon
        self.activation = activation
        self.slope = slope
        self.dropout = dropout
        self.drop_fraction = drop_fraction
        self.importance = importance
        self.rewire_interval = rewire_interval
        self.learning_rate_init = learning_rate_init
        self.momentum = momentum
        self.alpha = alpha
        self.max_grad_norm = max_grad_norm
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.random_state = random_state

    # -- training ----------------------------------------------------------------------------

    def _fit(
        self,
        x: Any,  # noqa: ANN401
        targets: NDArray[Any],
        weights: NDArray[np.float64],
        *,
        n_outputs: int,
    ) -> None:
        """``max_iter`` epochs, or fewer where nothing improves any more."""
        patience = Patience(n_epochs=self.n_iter_no_change, tol=self.tol)
        if not (self.warm_start and hasattr(self, "model_")):
            self._build(x, n_outputs)
        x, targets, weights = without_zeros(x, targets, weights)
        held_out = None
        if self.early_stopping:
            x, held_x, targets, held_y, weights, held_weights = selection.train_test_split(
                x,
                targets,
                weights,
                test_size=self.validation_fraction,
                stratify=targets if self._has_codes else None,
                random_state=self._seed,
            )
            held_out = Samples(self._inputs(held_x), self._targets(held_y))
        samples = Samples(self._inputs(x), self._targets(beside(targets, weights)))
        trainer = self._trainer()
        best = None
        for _ in range(self._epochs()):
            self._epoch(trainer, samples)
            if held_out is None:
                patience.see(-self.loss_curve_[-1])
            else:
                score = self._validation_score(held_out, held_weights)
                self.validation_scores_.append(score)
                if patience.see(score):
                    best = copy.deepcopy(trainer.state_dict())
            if patience.is_over:
                break
        if best is not None:
            trainer.load_state_dict(best)
            self.best_validation_score_ = max(self.validation_scores_)
        self.nnz_ = trainer.nnz

    def _partial_fit(
        self,
        x: Any,  # noqa: ANN401
        targets: NDArray[Any],
        weights: NDArray[np.float64],
        *,
        n_outputs: int,
    ) -> None:
        """One pass over these samples."""
        if not hasattr(self, "model_"):
            self._build(x, n_outputs)
        x, targets, weights = without_zeros(x, targets, weights)
        trainer = self._trainer(streaming=True)
        self._epoch(trainer, Samples(self._inputs(x), self._targets(beside(targets, weights))))
        self.nnz_ = trainer.nnz

    def _epoch(self, trainer: SetTrainer, samples: Samples) -> None:
        record = trainer.run_epoch(samples)
        self.loss_curve_.append(record.loss)
        self.loss_ = record.loss
        self.best_loss_ = min(self.loss_curve_)
        self.n_iter_ += 1

    def _build(self, x: Any, n_outputs: int) -> None:  # noqa: ANN401
        seed = int(utils.check_random_state(self.random_state).randint(2**31 - 1))
        sizes = _sizes(self.hidden_layer_sizes)
        self._seed = seed
        self._architecture: dict[str, Any] = {
            "sizes": (int(x.shape[1]), *sizes, n_outputs),
            "epsilon": self.epsilon,
            "activation": self.activation,
            "slope": self.slope,
            "dropout": self.dropout,
            "seed": seed,
            "dtype": torch.float64 if x.dtype == np.float64 else torch.float32,
        }
        self.model_ = sparse_mlp(**self._architecture)
        self._training: SetTrainer | None = None
        self._saved: dict[str, Any] | None = None
        self.n_layers_ = len(sizes) + 2
        self.n_outputs_ = n_outputs
        self.n_iter_ = 0
        self.loss_curve_: list[float] = []
        self.validation_scores_: list[float] = []

    def _trainer(self, *, streaming: bool = False) -> SetTrainer:
        """The trainer of the model, made anew where there is none or parameters were changed."""
        recipe = Recipe(
            lr=self.learning_rate_init,
            momentum=self.momentum,
            weight_decay=self.alpha,
            batch_size=self.batch_size,
            drop_fraction=self.drop_fraction,
            importance=self.importance,
            max_grad_norm=self.max_grad_norm,
        )
        known = self._training
        if known is not None and known.recipe == recipe:
            return known
        if known is not None:
            self._saved = known.state_dict()
            known.detach()
        interval = self.rewire_interval
        if self._saved is not None:
            interval = self._saved["interval"]
        elif streaming and interval is None:
            interval = STREAMING_INTERVAL
        trainer = SetTrainer(
            self.model_, recipe, loss=type(self)._loss, seed=self._seed, interval=interval
        )
        if self._saved is not None:
            trainer.load_state_dict(self._saved)
            for group in trainer.optimizer.param_groups:
                group.update(lr=recipe.lr, momentum=recipe.momentum)
            trainer.optimizer.param_groups[0]["weight_decay"] = recipe.weight_decay
        self._training, self._saved = trainer, None
        return trainer

    def _epochs(self) -> int:
        if not isinstance(self.max_iter, int | np.integer) or self.max_iter < 1:
            raise ValueError(f"max_iter must be an integer of at least 1, got {self.max_iter!r}")
        return int(self.max_iter)

    def _validation_score(self, held_out: Samples, weights: NDArray[np.float64]) -> float:
        raise NotImplementedError

    # -- use ---------------------------------------------------------------------------------

    def _outputs(self, x: ArrayLike) -> Tensor:
        """Outputs of the network (N, n_outputs)."""
        validation.check_is_fitted(self)
        x = validation.validate_data(self, x, accept_sparse="csr", dtype=FLOATS, reset=False)
        return predict(self.model_, self._inputs(x))

    def _inputs(self, x: Any) -> Inputs:  # noqa: ANN401
        """In the dtype of the network, which that of the first samples was."""
        x = x.astype(self._dtype, copy=False)
        inputs: Inputs = _tensor(x) if isinstance(x, np.ndarray) else x
        return inputs

    def _targets(self, targets: NDArray[Any]) -> Tensor:
        return _tensor(targets if self._has_codes else targets.astype(self._dtype, copy=False))

    @property
    def _has_codes(self) -> bool:
        """Whether targets are codes of classes."""
        return hasattr(self, "classes_")

    @property
    def _dtype(self) -> type:
        wide = self._architecture["dtype"] == torch.float64
        return np.float64 if wide else np.float32

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        # Neither hooks nor generators: tensors and numbers, from which both are made again.
        state: dict[str, Any] = dict(super().__getstate__())
        if "model_" in state:
            trainer = state.pop("_training")
            state["_saved"] = state["_saved"] if trainer is None else trainer.state_dict()
            state["model_"] = state["model_"].state_dict()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "model_" in state:
            model = sparse_mlp(**state["_architecture"])
            model.load_state_dict(state["model_"])
            state |= {"model_": model.eval(), "_training": None}
        super().__setstate__(state)


STREAMING_INTERVAL = 100
"""Steps between rewirings of ``partial_fit``, where a pass may be a single batch: as in RigL."""


def _sizes(sizes: object) -> tuple[int, ...]:
    sizes = (sizes,) if isinstance(sizes, int | np.integer) else sizes
    listed = list(sizes) if isinstance(sizes, Sequence | np.ndarray) else []
    if not listed:
        raise ValueError(
            f"hidden_layer_sizes must name at least one hidden layer, such as (1000, 1000); got "
            f"{sizes!r}"
        )
    return tuple(listed)


def _tensor(array: NDArray[Any]) -> Tensor:
    """Shares memory where it can: torch has no read-only tensors, and warns of it."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
