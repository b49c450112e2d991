"""The loop side: layers, rewiring, and the updater that attaches itself to optimizers."""

from regrow.training._bench import bench
from regrow.training._bench_report import BenchReport, BenchRow, HeldBytes
from regrow.training._budgets import Budget, Quota, Rounding, Standing, per_group, per_layer
from regrow.training._compact import CompactWeight
from regrow.training._compress import compress_
from regrow.training._distributed import ProcessGroup
from regrow.training._health import COLLAPSE_SHARE
from regrow.training._layers import MaskedWeight
from regrow.training._metrics import MetricsCallback
from regrow.training._prepare import prepare_layers, sparsify_
from regrow.training._progress import Rewiring
from regrow.training._recorded import RecordedGradient
from regrow.training._rewire import rewire
from regrow.training._rule import Part, Rule
from regrow.training._shared_budgets import by_momentum, by_nnz, global_magnitude, redistribute
from regrow.training._updater import TopologyUpdater
from regrow.training._weights import Select, default_weights, fitting

__all__ = [
    "COLLAPSE_SHARE",
    "BenchReport",
    "BenchRow",
    "Budget",
    "CompactWeight",
    "HeldBytes",
    "MaskedWeight",
    "MetricsCallback",
    "Part",
    "ProcessGroup",
    "Quota",
    "RecordedGradient",
    "Rewiring",
    "Rounding",
    "Rule",
    "Select",
    "Standing",
    "TopologyUpdater",
    "bench",
    "by_momentum",
    "by_nnz",
    "compress_",
    "default_weights",
    "fitting",
    "global_magnitude",
    "per_group",
    "per_layer",
    "prepare_layers",
    "redistribute",
    "rewire",
    "sparsify_",
]
