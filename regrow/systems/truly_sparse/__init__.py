"""Truly sparse neural networks at scale (Curci, Mocanu & Pechenizkiy 2021).

SET's multilayer perceptron of truly sparse layers, All-ReLU, importance pruning of hidden neurons,
and data-parallel training on processes. The scikit-learn estimators, in ``.estimators``, load on
first use; they need the extra ``sklearn``.
"""

import importlib

from regrow.systems.truly_sparse._activation import AllReLU, SeededDropout
from regrow.systems.truly_sparse._average import average_layers
from regrow.systems.truly_sparse._importance import (
    ImportancePruning,
    importance_pruning,
    neuron_importance,
)
from regrow.systems.truly_sparse._model import hidden_weights, sparse_mlp
from regrow.systems.truly_sparse._parallel import ParallelHistory, wasap_sgd, wassp_sgd
from regrow.systems.truly_sparse._pool import WorkerError
from regrow.systems.truly_sparse._recipe import EpochRecord, Recipe, attach_set
from regrow.systems.truly_sparse._samples import Samples, predict
from regrow.systems.truly_sparse._trainer import SetTrainer

__all__ = [
    "AllReLU",
    "EpochRecord",
    "ImportancePruning",
    "ParallelHistory",
    "Recipe",
    "Samples",
    "SeededDropout",
    "SetTrainer",
    "WorkerError",
    "attach_set",
    "average_layers",
    "hidden_weights",
    "importance_pruning",
    "neuron_importance",
    "predict",
    "sparse_mlp",
    "wasap_sgd",
    "wassp_sgd",
]

_ESTIMATORS = ("SparseMLPClassifier", "SparseMLPRegressor")


def __getattr__(name: str) -> object:
    # On first use: the rest needs no scikit-learn, and the processes of workers start sooner.
    if name in _ESTIMATORS:
        return getattr(importlib.import_module(f"{__name__}.estimators"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_ESTIMATORS})
