"""SparseMLPClassifier."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regrow._optional import require
from regrow.systems.truly_sparse._samples import Samples, predict
from regrow.systems.truly_sparse.estimators._base import FLOATS, SparseMLP
from regrow.systems.truly_sparse.estimators._weights import check_weights, cross_entropy

ClassifierMixin: Any = require("sklearn.base", extra="sklearn").ClassifierMixin
validation = require("sklearn.utils.validation", extra="sklearn")
multiclass = require("sklearn.utils.multiclass", extra="sklearn")


@final
class SparseMLPClassifier(ClassifierMixin, SparseMLP):  # type: ignore[misc]
    """A classifier whose layers are sparse from the first step on, and hold nothing else.

    A multilayer perceptron with All-ReLU, trained by SGD on the cross-entropy and rewired by SET
    after each epoch. Inputs may be dense or ``scipy.sparse``; they are computed in float32 where
    they come as float32, which is faster, else in float64. Scale them: to zero mean and unit
    variance, or images to [0, 1].

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

    Attributes:
        classes_: Labels (n_classes,).
        model_: The network, a ``torch.nn.Sequential``.
        n_iter_: Epochs so far.
        loss_: Training loss of the last epoch; ``best_loss_``: the lowest; ``loss_curve_``: all.
        validation_scores_: Accuracy of each epoch on what early stopping held out, else empty;
            ``best_validation_score_``: the highest.
        nnz_: Connections of the network.
        n_features_in_, n_layers_, n_outputs_: Sizes.

    Source: Curci, Mocanu & Pechenizkiy 2021, "Truly sparse neural networks at scale".
    """

    _loss = staticmethod(cross_entropy)

    def fit(
        self,
        X: ArrayLike,  # noqa: N803 - scikit-learn's
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> SparseMLPClassifier:
        """Train.

        Args:
            X: (N, n_features), dense or ``scipy.sparse``.
            y: (N,) labels.
            sample_weight: (N,) weights of the samples in the loss, 0 or more; None: all the same.
                Scaled to a mean of 1, so that only ratios count: equal weights are as none, and
                the expected gradient of a step is as if a sample of weight k were there k times.
                Those of weight 0 are left out, though their labels are classes. Validation scores
                are weighted, too.

        Returns:
            The estimator itself.

        Raises:
            ValueError: Samples or parameters are not valid.
            FloatingPointError: The loss became infinite.
        """
        restart = not (self.warm_start and hasattr(self, "model_"))
        x, labels = self._checked(X, y, reset=restart)
        weights = check_weights(sample_weight, x)
        if restart:
            self.classes_ = np.unique(labels)
        self._fit(x, self._codes(labels), weights, n_outputs=len(self.classes_))
        return self

    def partial_fit(
        self,
        X: ArrayLike,  # noqa: N803
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> SparseMLPClassifier:
        """Train for one pass over some samples.

        Args:
            X: (N, n_features), dense or ``scipy.sparse``.
            y: (N,) labels.
            classes: All labels that will ever come; needed by the first call.
            sample_weight: (N,) weights as in ``fit``; their mean is 1 over the samples of this
                call.

        Returns:
            The estimator itself.

        Raises:
            ValueError: ``classes`` is missing or differs, or samples or parameters are not valid.
        """
        first = not hasattr(self, "model_")
        if first and classes is None:
            raise ValueError("classes must list all labels in the first call of partial_fit")
        known = np.unique(self.classes_ if classes is None else classes)
        if not first and not np.array_equal(known, self.classes_):
            raise ValueError(f"classes must stay {self.classes_}, got {known}")
        x, labels = self._checked(X, y, reset=first)
        weights = check_weights(sample_weight, x)
        self.classes_ = known
        self._partial_fit(x, self._codes(labels), weights, n_outputs=len(known))
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Probability of each class.

        Args:
            X: (N, n_features), dense or ``scipy.sparse``.

        Returns:
            (N, n_classes), in the order of ``classes_``; rows sum to 1.
        """
        return self._outputs(X).softmax(1).numpy()

    def predict_log_proba(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Logarithm of the probability of each class.

        Args:
            X: (N, n_features), dense or ``scipy.sparse``.

        Returns:
            (N, n_classes), in the order of ``classes_``.
        """
        return self._outputs(X).log_softmax(1).numpy()

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """The most probable class.

        Args:
            X: (N, n_features), dense or ``scipy.sparse``.

        Returns:
            (N,) labels.
        """
        found = self._outputs(X).argmax(1).numpy()
        return np.asarray(self.classes_[found])

    def _checked(self, x: ArrayLike, y: ArrayLike, *, reset: bool) -> tuple[Any, NDArray[Any]]:
        samples, labels = validation.validate_data(
            self, x, y, accept_sparse="csr", dtype=FLOATS, reset=reset
        )
        multiclass.check_classification_targets(labels)
        return samples, validation.column_or_1d(labels, warn=True)

    def _codes(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y has the label {unknown[0]!r}, which is not among the classes {self.classes_}"
            )
        return np.searchsorted(self.classes_, labels).astype(np.int64)

    def _validation_score(self, held_out: Samples, weights: NDArray[np.float64]) -> float:
        found = predict(self.model_, held_out.x).argmax(1)
        return float(np.average((found == held_out.y).numpy(), weights=weights))
