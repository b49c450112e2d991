"""TopologyUpdater: rewires the layers of a model while its optimizers step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import final

from torch import nn
from torch.optim import Optimizer

from regrow._names import Owned, owned_parameters
from regrow.accounting import Plan, Report, metrics_of
from regrow.errors import SparsityError
from regrow.topology import Topology, TopologyDelta
from regrow.training._arguments import (
    check_compact_over_ranks,
    check_parts,
    optimizers_of,
    owner_of_each,
)
from regrow.training._distributed import ProcessGroup, check_group
from regrow.training._driver import StepDriver
from regrow.training._health import exploration_of, warn_of_collapse
from regrow.training._hooks import Attachment, check_unattached
from regrow.training._layer import Layer
from regrow.training._metrics import MetricsCallback, Monitor
from regrow.training._progress import Progress, Rewiring, read_progress, write_progress
from regrow.training._report import plan_of, report_of, training_flops_of
from regrow.training._rule import Part
from regrow.typing import StateDict


@final
class TopologyUpdater:
    """Keeps weights sparse, and rewires them, from hooks alone: the training loop stays as it was.

    Built by the functions in ``regrow.methods``. All counts are performed optimizer steps: a
    step that a ``GradScaler`` skips does not count, and a rewiring that was due on it stays due.

    Args:
        model: The module whose forward pass is guarded against replaced parameters.
        optimizer: The optimizer, or several that step in this order; each selected weight is in
            exactly one.
        parts: Layers and how they are rewired; their inactive weights are zeroed.
        seed: Seed of all draws.
        process_group: Whose ranks must decide alike: ``"auto"``, a group, or None.

    Raises:
        SparsityError: A layer is in no optimizer or in several, in two parts, or has an updater
            already; or a budget cannot work on its layers.
        RankMismatchError: Ranks hold truly sparse layers of different topologies.
        ValueError: An optimizer cannot work, ``weight_step="after"`` with several, or parts whose
            rules differ in it.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        parts: Sequence[Part],
        seed: int,
        process_group: ProcessGroup = "auto",
    ) -> None:
        self._optimizers = optimizers_of(optimizer)
        self._parts = list(parts)
        check_parts(self._parts, self._optimizers)
        owners = owner_of_each(self._layers, self._optimizers)
        check_unattached(self._layers)
        check_group(process_group, self._layers)
        for part in self._parts:
            part.check()
        check_compact_over_ranks(model, self._parts, process_group)
        self._model = model
        self._process_group = process_group
        self._followers: list[list[Owned]] = []
        self._callbacks: list[Callable[[Rewiring], None]] = []
        self._monitor = Monitor()
        self._warned: set[str] = set()
        for layer, owner in zip(self._layers, owners, strict=True):
            layer.optimizer = owner
            layer.enforce(owner)
        self._attach(
            Progress(
                seed=seed,
                initial_nnz=[layer.topology.nnz for layer in self._layers],
                overdue=[None] * len(self._parts),
            )
        )

    # -- what users read ---------------------------------------------------------------------

    @property
    def topologies(self) -> Mapping[str, Topology]:
        """Name, as in ``named_parameters()`` without wrappers' prefixes -> current topology."""
        return {layer.name: layer.topology for layer in self._layers}

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Name -> the very parameter that is kept sparse."""
        return {layer.name: layer.parameter for layer in self._layers}

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """The optimizers whose steps are watched, in their order."""
        return tuple(self._optimizers)

    @property
    def steps(self) -> int:
        """Optimizer steps performed, those that a rewiring took the place of included."""
        return self._progress.steps

    @property
    def weight_steps(self) -> int:
        """Steps that moved the weights: ``steps``, less the rewirings where these skip."""
        skips = any(p.rule is not None and p.rule.weight_step == "skip" for p in self._parts)
        in_place_of_a_step = sum(not record.is_edit for record in self._progress.history)
        return self.steps - (in_place_of_a_step if skips else 0)

    @property
    def rewirings(self) -> int:
        """Rewirings done."""
        return len(self._progress.history)

    @property
    def history(self) -> Sequence[Rewiring]:
        """Every rewiring done, in order."""
        return tuple(self._progress.history)

    @property
    def nnz(self) -> int:
        """Connections over all layers, counted."""
        return sum(layer.topology.nnz for layer in self._layers)

    @property
    def sparsity(self) -> float:
        """Fraction of zeros over all layers, counted."""
        return 1 - self.nnz / sum(layer.topology.n_elements for layer in self._layers)

    @property
    def exploration(self) -> float | None:
        """Fraction of units that were ever active (ITOP's R_s, Liu et al. 2021, section 3).

        None where a layer is truly sparse: its past would be larger than the layer, and is not
        kept.
        """
        return exploration_of(self._layers)

    def plan(self, inputs: object = None) -> Plan:
        """A table of every tensor: shape, structure, nnz, sparsity, FLOPs, bytes, why it is dense.

        Args:
            inputs: An example batch, or a tuple of the model's positional arguments; FLOPs are
                those of ``model(inputs)``. Without it there are none.

        Returns:
            A ``Plan``; ``print`` it.
        """
        return plan_of(self._model, self._parts, inputs)

    def report(self) -> Report:
        """What has happened so far: turnover, exploration, age and health of each layer.

        See ``regrow.accounting.Report`` and ``LayerReport`` for what each number means.
        """
        return report_of(
            self._model,
            self._parts,
            self._progress,
            weight_steps=self.weight_steps,
            norms=self._monitor.norms,
        )

    def metrics(self, *, per_layer: bool = False) -> dict[str, float]:
        """The report as flat numbers, such as ``"regrow/churn"``; see ``metrics_of``.

        Args:
            per_layer: Whether to add those of each layer, ``"regrow/layer/NAME/churn"``.
        """
        return metrics_of(self.report(), per_layer=per_layer)

    def training_flops(self, inputs: object) -> int:
        """FLOPs of all steps so far, each on a batch like ``inputs``.

        A step costs three sparse forward passes; where growth reads the dense gradient, a
        rewiring step pays for a dense weight gradient, and saves nothing else unless it takes the
        place of the weight step (RigL, appendix H). Counted as in ``regrow.count``, "mac2".

        Args:
            inputs: An example batch, or a tuple of the model's positional arguments.
        """
        return training_flops_of(self._model, self._parts, self._progress, inputs)

    # -- what users do -----------------------------------------------------------------------

    def follow(self, averaged: nn.Module) -> None:
        """Keep an averaged copy of the model, such as ``AveragedModel``, in the current topology.

        Its weights outside the topology are zeroed now and after each rewiring; between rewirings
        an average of zeros stays zero by itself. In a truly sparse layer averaged values move with
        their connection; new ones begin at zero.

        Args:
            averaged: A module with a parameter of the same name and shape for each layer.

        Raises:
            SparsityError: A name is missing, or a shape differs; nothing was changed.
        """
        theirs = {one.name: one for one in owned_parameters(averaged)}
        for layer in self._layers:
            copy_ = theirs.get(layer.name)
            if problem := _unlike(layer, copy_):
                raise SparsityError(
                    f"follow() needs a copy of the model, but {layer.name!r} is {problem} there"
                )
        copies = [theirs[layer.name] for layer in self._layers]
        self._followers.append(copies)
        self._align(copies)

    def edit(self, deltas: Mapping[str, TopologyDelta]) -> Rewiring:
        """Drop and grow units by a decision of your own, between two steps.

        Weights, optimizer state, averaged copies and the past follow as in a rewiring, and it is
        part of the history. Grown connections begin at zero. Rules go on from the new counts: one
        without a target keeps them.

        Args:
            deltas: Name of the layer -> units to drop and to grow.

        Returns:
            The record of it.

        Raises:
            TypeError: ``deltas`` is no mapping to decisions.
            SparsityError: A name is no layer's, a decision does not fit its topology, or ranks
                decide differently; nothing was changed.

        Example:
            >>> import torch, regrow
            >>> net = torch.nn.Linear(4, 2)
            >>> updater = regrow.static(net, torch.optim.SGD(net.parameters()), sparsity=0.5)
            >>> first = updater.topologies["weight"].units[:1]
            >>> record = updater.edit({"weight": regrow.TopologyDelta(first, first[:0])})
            >>> updater.nnz
            3
        """
        if not isinstance(deltas, Mapping):
            raise TypeError(
                f"deltas must map names of layers to regrow.TopologyDelta, got {deltas!r:.80}"
            )
        for name, delta in deltas.items():
            if not isinstance(delta, TopologyDelta):
                raise TypeError(
                    "deltas must map names of layers to regrow.TopologyDelta, "
                    f"got {delta!r:.80} for {name!r}"
                )
        unknown = sorted({*map(str, deltas)} - {layer.name for layer in self._layers})
        if unknown:
            raise SparsityError(
                f"deltas names {unknown[0]!r}, which is no layer; there are: "
                + ", ".join([layer.name for layer in self._layers][:10])
            )
        return self._driver.edit(deltas)

    def on_rewire(self, callback: Callable[[Rewiring], None]) -> None:
        """Call ``callback`` with the record of each rewiring, at the end of its optimizer step."""
        self._callbacks.append(callback)

    def on_metrics(
        self, callback: MetricsCallback, *, every: int | None = None, per_layer: bool = False
    ) -> None:
        """Call ``callback(step, metrics)`` with the numbers of ``metrics()`` as training goes on.

        It is called at the end of an optimizer step that was performed, weight step and rewiring
        done, until ``detach()``; callbacks are not part of ``state_dict()``. Where ``fully_shard``
        split the weights, every rank must register one, of which all but one may do nothing: the
        gradient norm is summed over ranks.

        Args:
            callback: Such as ``regrow.integrations.log_metrics(writer)``; the mapping is its own.
            every: Optimizer steps from one call to the next; None: after each rewiring.
            per_layer: Whether the numbers of each layer are among them.

        Raises:
            TypeError: ``callback`` is not callable, or ``every`` no integer.
            ValueError: ``every`` is below 1.
        """
        self._monitor.listen(callback, every=every, per_layer=per_layer)

    def detach(self) -> None:
        """Remove every hook. Weights stay as they are; nothing keeps them sparse any more."""
        self._attachment.remove()
        for layer in self._layers:
            layer.unwatch()

    def state_dict(self) -> StateDict:
        """Topologies, counters and seed, for a bit-exact resume.

        To be saved beside the model's and the optimizers' own states. Tensors, numbers, strings,
        lists and dicts only: it loads with ``torch.load(weights_only=True)``.
        """
        return write_progress(self._layers, self._progress)

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a saved state.

        The order in which model, optimizers and updater are loaded does not matter.

        Args:
            state: What ``state_dict()`` returned, of an updater on the same model.

        Raises:
            SparsityError: The state is of another model, or damaged; nothing was changed.
        """
        progress, saved = read_progress(state, self._layers, n_parts=len(self._parts))
        for one in saved:
            one.restore()
        self._driver.progress = progress
        self._driver.forget_step()
        self._monitor.norms = None
        self._align_followers()

    def __deepcopy__(self, memo: dict[int, object]) -> TopologyUpdater:
        # Copied along with model and optimizer, as in deepcopy((model, optimizer, updater)),
        # the copy drives theirs. Process groups and callbacks are shared: they are not ours.
        clone = object.__new__(TopologyUpdater)
        memo[id(self)] = clone
        shared = {"_process_group", "_callbacks"}
        for key, value in self.__dict__.items():
            if key not in {"_attachment", "_driver"}:
                clone.__dict__[key] = value if key in shared else copy.deepcopy(value, memo)
        clone._callbacks = list(self._callbacks)
        clone._attach(copy.deepcopy(self._progress, memo))
        return clone

    @property
    def _layers(self) -> list[Layer]:
        return [layer for part in self._parts for layer in part.layers]

    @property
    def _progress(self) -> Progress:
        return self._driver.progress

    def _attach(self, progress: Progress) -> None:
        self._driver = StepDriver(
            self._model,
            self._parts,
            optimizers=self._optimizers,
            progress=progress,
            process_group=self._process_group,
            monitor=self._monitor,
            rewired=self._rewired,
            performed=self._performed,
        )
        self._attachment = Attachment(
            self._driver, self._model, layers=self._layers, optimizers=self._optimizers
        )

    def _rewired(self, record: Rewiring) -> None:
        self._align_followers()
        for callback in self._callbacks:
            callback(record)

    def _performed(self, rewired: bool) -> None:  # noqa: FBT001 - the driver's one message
        if rewired:
            warn_of_collapse(self._parts, self._progress, warned=self._warned)
        self._monitor.tell(self.steps, rewired=rewired, report=self.report)

    def _align_followers(self) -> None:
        for copies in self._followers:
            self._align(copies)

    def _align(self, copies: Sequence[Owned]) -> None:
        for layer, one in zip(self._layers, copies, strict=True):
            layer.align_copy(one)

    def __reduce__(self) -> str:
        raise TypeError("an updater is not pickled: save state_dict() beside the model's")


def _unlike(layer: Layer, copy_: Owned | None) -> str:
    """In what a parameter of another model is no copy of a layer, or ""."""
    if copy_ is None:
        return "missing"
    if copy_.shape != layer.topology.shape:
        return f"of shape {copy_.shape}"
    if copy_.is_compact != layer.topology.is_compact:
        return "truly sparse" if copy_.is_compact else "dense"
    return ""
