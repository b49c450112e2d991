"""StepDriver: what happens between a backward pass and the end of an optimizer step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import final

from torch import nn
from torch.optim import Optimizer

from regrow._sharding import is_sharded
from regrow.topology import TopologyDelta, apply
from regrow.training._distributed import (
    ProcessGroup,
    check_resizable,
    check_same_on_all,
    resolve_group,
    true_on_all,
)
from regrow.training._layer import DenseGrad, Layer
from regrow.training._metrics import Monitor
from regrow.training._optimizer_state import check_state_shapes
from regrow.training._progress import Progress, Rewiring
from regrow.training._rewire import rewire
from regrow.training._rounds import Round, all_finite
from regrow.training._rule import Part

_log = logging.getLogger(__name__)


@final
class StepDriver:
    """Called by the hooks; masks gradients, enforces zeros, and rewires when that is due.

    On an ordinary step only live entries carry gradient, so clipping and logging see the true
    norm. On a step that owes a rewiring which reads gradients, the gradient stays dense until the
    step: accumulation, DDP's average and a scaler treat it like any other, and growth follows
    the reduced gradient without communication of ours.

    Args:
        model: For its process group.
        parts: Layers with their rules; each layer knows the optimizer that steps it.
        optimizers: In the order in which they step.
        progress: Counters, advanced here.
        process_group: Whose ranks must decide alike.
        monitor: Measures gradients on the steps that somebody hears of.
        rewired: Called with the record of each rewiring, at the end of its step.
        performed: Called at the end of each performed step, with whether it rewired.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: Sequence[Part],
        *,
        optimizers: Sequence[Optimizer],
        progress: Progress,
        process_group: ProcessGroup,
        monitor: Monitor,
        rewired: Callable[[Rewiring], None],
        performed: Callable[[bool], None],
    ) -> None:
        self.progress = progress
        self._model = model
        self._parts = parts
        self._layers = [layer for part in parts for layer in part.layers]
        self._part_of = {layer.name: i for i, part in enumerate(parts) for layer in part.layers}
        self._optimizers = optimizers
        self._weight_step = next((p.rule.weight_step for p in parts if p.rule is not None), None)
        self._process_group = process_group
        self._monitor = monitor
        self._report = rewired
        self._performed = performed
        self.forget_step()

    def forget_step(self) -> None:
        """Let go of what belongs to the step under way."""
        self._round = Round(self._optimizers, agree=self._agree)
        self._forget_rewiring()
        self.watch()

    def _forget_rewiring(self) -> None:
        self._dense: dict[str, DenseGrad] = {}
        self._rewired = False
        self._record: Rewiring | None = None
        self._finite: bool | None = None
        self._monitor.drop()

    def due(self, index: int) -> int | None:
        """The planned step of the rewiring that part ``index`` owes the coming step, or None."""
        rule = self._parts[index].rule
        if rule is None:
            return None
        if rule.window.is_due(self.progress.steps + 1):
            return self.progress.steps + 1
        return self.progress.overdue[index]

    @property
    def _due_parts(self) -> dict[int, int]:
        """Index of each part that is due -> the planned step of its rewiring."""
        dues = {i: self.due(i) for i in range(len(self._parts))}
        return {i: due for i, due in dues.items() if due is not None}

    def grad_arrived(self, layer: Layer) -> None:
        """Hook: leave gradient on active entries, or all of it where a rewiring shall read it."""
        index = self._part_of[layer.name]
        if not self._parts[index].reads_gradient or self.due(index) is None:
            layer.mask_grad()

    def begin_step(self, index: int) -> None:
        """Hook: nothing has moved yet; an optimizer such as SAM moves weights for its closure."""
        for layer in self._layers_of(self._optimizers[index]):
            layer.check_untouched()

    def before_step(self, index: int) -> None:
        """Hook: gradients are complete, weights have not moved."""
        if self._round.enter(index):
            self._forget_rewiring()
        due = self._due_parts
        if self._monitor.hears(self.progress.steps + 1, rewires=bool(due)):
            self._monitor.measure(self._layers_of(self._optimizers[index]))
        if not due:
            return
        optimizer, last = self._optimizers[index], self._round.is_last(index)
        mine = self._layers_of(optimizer)
        if any(self._parts[i].reads_gradient for i in due):
            if self._finite is None:
                self._finite = self._finite_everywhere()
            read = [layer for layer in mine if self._is_read(layer, due)]
            self._keep_dense_grads(read, copy=self._weight_step == "before")
        comes = self._finite is not False and not self._round.skipped
        if self._weight_step == "skip" and comes:
            # (Before they would be moved along with their connections.)
            _forget_grads(optimizer)
        if self._weight_step != "before" and last and comes and not self._rewired:
            self._rewired = self._rewire(due)
        for layer in mine:
            layer.mask_grad()

    def _is_read(self, layer: Layer, due: Mapping[int, int]) -> bool:
        index = self._part_of[layer.name]
        return index in due and self._parts[index].reads_gradient

    def after_step(self, index: int) -> None:
        """Hook: weights have moved."""
        optimizer = self._optimizers[index]
        for layer in self._layers_of(optimizer):
            layer.enforce(optimizer)
        self._round.leave(index)
        if self._round.is_last(index):
            performed = not self._round.skipped
            try:
                if performed:
                    self._end_step()
                record = self._record
            finally:
                self.forget_step()
            # Last of all: what users call may raise, and leaves a whole step behind.
            if record is not None:
                self._report(record)
            if performed:
                self._performed(record is not None)

    def _end_step(self) -> None:
        """Count the step, and rewire where that comes behind it."""
        if self.progress.steps == 0:
            for layer in self._layers:
                if layer.optimizer is not None:
                    check_state_shapes(layer.optimizer, layer.parameter, layer.name)
        if due := self._due_parts:
            if self._weight_step == "before" and self._finite is not False:
                self._rewired = self._rewire(due)
            for i, planned in due.items():
                # Not finite somewhere: it stays due, also behind the last planned step.
                self.progress.overdue[i] = None if self._rewired else planned
        self.progress.steps += 1
        self._monitor.keep(self.progress.steps)

    def _agree(self, flag: bool) -> bool:  # noqa: FBT001 - a vote
        """Whether a flag that a rank takes from its own part of the gradients holds on all."""
        if not any(is_sharded(layer.parameter) for layer in self._layers):
            return flag
        group = resolve_group(self._model, self._process_group, self._layers)
        device = self._layers[0].parameter.device
        return true_on_all(flag=flag, group=group, device=device)

    def _layers_of(self, optimizer: Optimizer) -> list[Layer]:
        return [layer for layer in self._layers if layer.optimizer is optimizer]

    def _finite_everywhere(self) -> bool:
        """Whether all layers' gradients are finite on all ranks; asked once, before any steps."""
        grads = [x.parameter.grad for x in self._layers if x.parameter.grad is not None]
        # (Masked layers have the dense gradient there; of truly sparse ones it is made of these.)
        grads += [tensor for layer in self._layers for tensor in layer.kept_for_growth()]
        group = resolve_group(self._model, self._process_group, self._layers)
        device = self._layers[0].parameter.device
        finite = bool(all_finite(grads).item())
        finite = true_on_all(flag=finite, group=group, device=device)
        if not finite:
            step = self.progress.steps + 1
            _log.info("step %d: a gradient is not finite; rewiring waits", step)
        return finite

    def _keep_dense_grads(self, layers: Sequence[Layer], *, copy: bool) -> None:
        group = None
        if any(layer.topology.is_compact for layer in layers):
            group = resolve_group(self._model, self._process_group, self._layers)
        for layer in layers:
            dense = layer.keep_dense_grad(copy=copy, group=group)
            if dense is not None:
                self._dense[layer.name] = dense

    def watch(self) -> None:
        """Let truly sparse layers keep what the coming step's rewiring reads, or no longer."""
        due = self._due_parts
        for layer in self._layers:
            if self._is_read(layer, due):
                layer.watch()
            else:
                layer.unwatch()

    def _rewire(self, due: Mapping[int, int]) -> bool:
        """Decide and apply the rewirings of the parts that are due, with their planned steps."""
        step = self.progress.steps + 1
        group = resolve_group(self._model, self._process_group, self._layers)
        device = self._layers[0].parameter.device
        decided: dict[str, TopologyDelta] = {}
        try:
            for index, planned in due.items():
                decided |= self._decide(self._parts[index], planned)
            deltas = [decided.get(layer.name) for layer in self._layers]
            tensors = (t for delta in deltas if delta for t in (delta.dropped, delta.grown))
            check_same_on_all(tensors, group=group, device=device, step=step)
            check_resizable(self._layers, deltas, group=group)
            self._record = self._apply(step, deltas)
        finally:
            for layer in self._layers:
                layer.end()
        return True

    def edit(self, deltas: Mapping[str, TopologyDelta]) -> Rewiring:
        """Apply decisions from outside, between two steps; see ``TopologyUpdater.edit``."""
        group = resolve_group(self._model, self._process_group, self._layers)
        wanted = [deltas.get(layer.name) for layer in self._layers]
        check_resizable(self._layers, wanted, group=group)
        for layer, delta in zip(self._layers, wanted, strict=True):
            if delta is not None:
                apply(layer.topology, delta)
        step = self.progress.steps
        tensors = (t for delta in wanted if delta for t in (delta.dropped, delta.grown))
        device = self._layers[0].parameter.device
        check_same_on_all(tensors, group=group, device=device, step=step)
        record = self._apply(step, wanted, is_edit=True)
        self._report(record)
        return record

    def _decide(self, part: Part, planned: int) -> Mapping[str, TopologyDelta]:
        rule, step = part.rule, self.progress.steps + 1
        if rule is None:
            return {}
        for layer in part.layers:
            layer.begin(self.progress.seed, step, self._dense.get(layer.name))
            if rule.reads_gradient and not layer.has_grad:
                _log.info("step %d: %s got no gradient and grows nothing", step, layer.name)
        return rewire(
            part.layers,
            drop=rule.drop,
            grow=rule.grow,
            fraction=rule.drop_fraction(planned),
            budget=rule.budget,
            target=None if rule.target is None else rule.target(planned),
            regrow=rule.regrow,
        )

    def _apply(
        self, step: int, deltas: Sequence[TopologyDelta | None], *, is_edit: bool = False
    ) -> Rewiring:
        rewiring = len(self.progress.history) + 1
        still_read = self._due_parts if is_edit else {}
        for layer, delta in zip(self._layers, deltas, strict=True):
            if delta is not None and not delta.is_empty:
                _commit(layer, delta, rewiring=rewiring)
                if not self._is_read(layer, still_read):
                    layer.mask_grad()
            # (Its gradient goes by the topology that was, and would keep it.)
            self._dense.pop(layer.name, None)
            layer.end()
        topologies = [layer.topology for layer in self._layers]
        record = Rewiring.of(step, deltas, topologies, is_edit=is_edit)
        self.progress.history.append(record)
        dropped, grown, nnz = sum(record.n_dropped), sum(record.n_grown), sum(record.nnz)
        _log.info("step %d: dropped %d, grew %d, nnz %d", step, dropped, grown, nnz)
        return record


def _commit(layer: Layer, delta: TopologyDelta, *, rewiring: int) -> None:
    """Put a decision into effect; what was there before goes."""
    old, new = layer.topology, apply(layer.topology, delta)
    layer.commit(new, delta, layer.optimizer)
    if layer.lifetimes is not None:
        layer.lifetimes.update(old, delta, new, rewiring=rewiring)


def _forget_grads(optimizer: Optimizer) -> None:
    """Nothing moves without a gradient: no momentum, no weight decay, in any optimizer."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
