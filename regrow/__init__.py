"""Train neural networks that are sparse from the first step to the last.

One call makes a model sparse and attaches itself to the optimizer; the training loop stays as it
was::

    model = torchvision.models.resnet50()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    updater = regrow.rigl(model, optimizer, sparsity=0.9, n_steps=len(loader) * epochs)

Importing ``regrow`` needs torch and numpy only; the packages of studies load on first use.
"""

import importlib
from types import ModuleType

from regrow import accounting, allocation, criteria, errors, methods, schedules, topology, training
from regrow.accounting import CostReport, count
from regrow.allocation import allocate, erdos_renyi, erdos_renyi_kernel, explicit, uniform
from regrow.diagnostics import Diagnosis, doctor
from regrow.errors import InfeasibleSparsityError, SparsityError
from regrow.methods import combine, gradual, granet, mest, part, rigl, set_training, static
from regrow.topology import (
    NM,
    Block,
    ChannelGroups,
    ConstantFanIn,
    InChannel,
    Kernel,
    OutChannel,
    Topology,
    TopologyDelta,
    Unstructured,
)
from regrow.training import (
    Rule,
    TopologyUpdater,
    bench,
    compress_,
    default_weights,
    fitting,
    global_magnitude,
    per_group,
    per_layer,
    redistribute,
    sparsify_,
)

__version__ = "0.1.0"

_ON_FIRST_USE = (
    "cli",
    "data",
    "integrations",
    "models",
    "nn",
    "ops",
    "robustness",
    "study",
    "systems",
)

__all__ = [
    "NM",
    "Block",
    "ChannelGroups",
    "ConstantFanIn",
    "CostReport",
    "Diagnosis",
    "InChannel",
    "InfeasibleSparsityError",
    "Kernel",
    "OutChannel",
    "Rule",
    "SparsityError",
    "Topology",
    "TopologyDelta",
    "TopologyUpdater",
    "Unstructured",
    "accounting",
    "allocate",
    "allocation",
    "bench",
    "combine",
    "compress_",
    "count",
    "criteria",
    "default_weights",
    "doctor",
    "erdos_renyi",
    "erdos_renyi_kernel",
    "errors",
    "explicit",
    "fitting",
    "global_magnitude",
    "gradual",
    "granet",
    "mest",
    "methods",
    "part",
    "per_group",
    "per_layer",
    "redistribute",
    "rigl",
    "schedules",
    "set_training",
    "sparsify_",
    "static",
    "topology",
    "training",
    "uniform",
]


def __getattr__(name: str) -> ModuleType:
    if name in _ON_FIRST_USE:
        return importlib.import_module(f"regrow.{name}")
    raise AttributeError(f"module 'regrow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_ON_FIRST_USE, "__version__"})
