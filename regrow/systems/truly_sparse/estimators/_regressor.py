"""SparseMLPRegressor."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regrow._optional import require
from regrow.systems.truly_sparse._samples import Samples, predict
from regrow.systems.truly_sparse.estimators._base import FLOATS, SparseMLP
from regrow.systems.truly_sparse.estimators._weights import check_weights, mean_squared_error

RegressorMixin: Any = require("sklearn.base", extra="sklearn").RegressorMixin
metrics = require("sklearn.metrics", extra="sklearn")
validation = require("sklearn.utils.validation", extra="sklearn")


@final
class SparseMLPRegressor(RegressorMixin, SparseMLP):  # type: ignore[misc]
    """A regressor whose layers are sparse from the first step on, and hold nothing else.

    As ``SparseMLPClassifier``, whose parameters and attributes it has but for those of classes; the
    loss is the mean squared error, the validation score R^2. Scale inputs and targets.

    Args:
        hidden_layer_sizes: Neurons of each hidden layer. Paper: three of 1000 on MNIST.
        epsilon: Connections for each input and output neuron of a layer; paper: 20.
        activation: ``"all_relu"`` or ``"relu"``.
        slope: Negative side of All-ReLU; paper: 0.6 on MNIST, 0.75 on CIFAR-10.
        dropout: Fraction in [0, 1) of hidden activations dropped in training; paper: 0.3.
        drop_fraction: Fraction of connections that a rewiring replaces (zeta); paper: 0.3.
        importance: When hidden neurons are pruned, ``ImportancePruning(...)``; None: never.
        rewire_interval: Optimizer steps from one rewiring to the next; None: an epoch in ``fit``,
            100 in ``partial_fit``.
        learning_rate_init: Of SGD, constant; paper: 0.01.
        momentum: In [0, 1); paper: 0.9.
        alpha: L2 penalty (weight decay); paper: 2e-4.
        max_grad_norm: Gradients are scaled down to this norm; None: never, as in the paper.
        batch_size: Samples a step; paper: 128.
        max_iter: Most epochs of one ``fit``.
        tol: The least improvement of the loss, or of the validation score, that counts.
        early_stopping: Whether to hold out samples, stop where their score stops improving, and
            return to the best epoch.
        validation_fraction: Fraction in (0, 1) of the samples that early stopping holds out.
        n_iter_no_change: Epochs in a row without an improvement that end ``fit``.
        warm_start: Whether ``fit`` goes on from the network of the last one.
        random_state: Of topology, first weights, order of samples, dropout and rewirings.

    Source: Curci, Mocanu & Pechenizkiy 2021, "Truly sparse neural networks at scale".
    """

    _loss = staticmethod(mean_squared_error)

    def fit(
        self,
        X: ArrayLike,  # noqa: N803 - scikit-learn's
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> SparseMLPRegressor:
        """Train.

        Args:
            X: (N, n_features), dense or ``scipy.sparse``.
            y: (N,) or (N, n_outputs) targets.
            sample_weight: (N,) weights of the samples in the loss, 0 or more; None: all the same.
                Scaled to a mean of 1, so that only ratios count: equal weights are as none, and
                the expected gradient of a step is as if a sample of weight k were there k times.
                Those of weight 0 are left out. Validation scores are weighted, too.

        Returns:
            The estimator itself.

        Raises:
            ValueError: Samples or parameters are not valid.
            FloatingPointError: The loss became infinite.
        """
        restart = not (self.warm_start and hasattr(self, "model_"))
        x, targets = self._checked(X, y, reset=restart)
        weights = check_weights(sample_weight, x)
        self._fit(x, targets, weights, n_outputs=targets.shape[1])
        return self

    def partial_fit(
        self,
        X: ArrayLike,  # noqa: N803
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> SparseMLPRegressor:
        """Train for one pass over some samples.

        Args:
            X: (N, n_features), dense or ``scipy.sparse``.
            y: (N,) or (N, n_outputs) targets.
            sample_weight: (N,) weights as in ``fit``; their mean is 1 over the samples of this
                call.

        Returns:
            The estimator itself.

        Raises:
            ValueError: Samples or parameters are not valid.
        """
        x, targets = self._checked(X, y, reset=not hasattr(self, "model_"))
        weights = check_weights(sample_weight, x)
        self._partial_fit(x, targets, weights, n_outputs=targets.shape[1])
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Targets.

        Args:
            X: (N, n_features), dense or ``scipy.sparse``.

        Returns:
            (N,), or (N, n_outputs) where it was trained on such.
        """
        found = self._outputs(X).numpy()
        return found[:, 0] if self._is_flat else found

    def _checked(self, x: ArrayLike, y: ArrayLike, *, reset: bool) -> tuple[Any, NDArray[Any]]:
        samples, targets = validation.validate_data(
            self,
            x,
            y,
            accept_sparse="csr",
            dtype=FLOATS,
            multi_output=True,
            y_numeric=True,
            reset=reset,
        )
        if reset:
            self._is_flat = targets.ndim == 1
        targets = targets.reshape(len(targets), -1)
        if not reset and targets.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y has {targets.shape[1]} outputs, the network was made for {self.n_outputs_}"
            )
        return samples, targets

    def _validation_score(self, held_out: Samples, weights: NDArray[np.float64]) -> float:
        found = predict(self.model_, held_out.x).numpy()
        return float(metrics.r2_score(held_out.y.numpy(), found, sample_weight=weights))

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
