"""Scikit-learn estimators of truly sparse perceptrons; they need the extra ``sklearn``."""

from regrow.systems.truly_sparse.estimators._classifier import SparseMLPClassifier
from regrow.systems.truly_sparse.estimators._regressor import SparseMLPRegressor

__all__ = ["SparseMLPClassifier", "SparseMLPRegressor"]
