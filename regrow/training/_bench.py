"""bench: what truly sparse layers would gain in a model, measured before anything is converted."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from regrow._checks import check_choice, check_count, check_fraction, check_is_structure
from regrow._names import Owned
from regrow.allocation import Allocation, erdos_renyi_kernel
from regrow.errors import BackendUnavailableError
from regrow.topology import (
    Structure,
    Topology,
    Unstructured,
    derived_generator,
    random_topology,
)
from regrow.training._bench_report import (
    DENSE,
    LADDER,
    MASKED,
    SPARSE,
    BenchReport,
    BenchRow,
    HeldBytes,
)
from regrow.training._prepare import draw_topologies
from regrow.training._weights import Select, choose_weights, default_weights

if TYPE_CHECKING:
    from regrow.nn import SparseModule


def bench(
    model: nn.Module,
    inputs: object,
    *,
    sparsity: float | None = 0.9,
    allocation: Allocation | None = None,
    structure: Structure | None = None,
    select: Select = default_weights,
    backends: Sequence[str] | None = None,
    inference: bool = False,
    rounds: int = 7,
    seed: int = 0,
) -> BenchReport:
    """Measure each selected layer of a model dense, masked and truly sparse.

    One forward pass finds what each layer is called with. On that, a training step of the layer
    (forward, gradients of parameters, and of the input where one is needed: the first layer needs
    none) is timed dense, masked (the dense step, and the gradient masked) and truly sparse on each
    back end, in turn, in this process and with its threads. The model is left as it was.

    With ``inference`` it is the forward pass alone, without gradients, dense and truly sparse; a
    masked layer computes what a dense one does and has no time of its own.

    Break-even is the smallest sparsity of 0.5, 0.7, 0.8, 0.9, 0.95, 0.98 and 0.99 at which the
    fastest back end beats dense, by bisection: a layer is taken to be the faster the sparser.

    Args:
        model: Any module.
        inputs: An example batch, or a tuple of the model's positional arguments. Speed depends on
            its size: take the one that you train with, or serve.
        sparsity: Fraction in [0, 1) of zeros over the selected weights; None where ``allocation``
            or the structure fixes it, or all selected layers are truly sparse already.
        allocation: How the budget is spread; by default ``erdos_renyi_kernel()``.
        structure: What a unit is; by default a single element.
        select: Predicate (name, module, parameter) -> bool, or globs over parameter names.
        backends: Names, such as ``["numba"]``; by default all but "reference" that can run.
        inference: Whether forward passes are timed in place of training steps.
        rounds: How often each is timed; the least counts.
        seed: Of the topologies.

    Returns:
        A ``BenchReport``; ``print`` it.

    Raises:
        TypeError: An argument is of another type.
        ValueError: A number is out of range, or a back end unknown.
        SparsityError: Nothing is selected, or the budget cannot be met.
    """
    if sparsity is not None:
        check_fraction(sparsity, "sparsity")
    check_count(rounds, "rounds")
    structure = Unstructured() if structure is None else structure
    check_is_structure(structure)
    asked = _check_backends(backends)
    chosen = choose_weights(model, select)
    topologies = draw_topologies(
        chosen,
        sparsity=sparsity,
        allocation=erdos_renyi_kernel() if allocation is None else allocation,
        structure=structure,
        seed=seed,
        compact=True,
    )
    from regrow.nn import layer_inputs

    modules = [one.owners[0][1] for one in chosen]
    found = layer_inputs(model, inputs, modules)
    rows = [
        _Bench(
            one,
            topologies[one.name],
            x,
            backends=asked,
            inference=inference,
            rounds=rounds,
            seed=seed,
        ).row()
        for one, x in zip(chosen, found, strict=True)
    ]
    nnz = sum(topology.nnz for topology in topologies.values())
    return BenchReport(
        rows=tuple(rows),
        sparsity=1 - nnz / sum(topology.n_elements for topology in topologies.values()),
        backends=asked or tuple(_ran(rows)),
        machine=_machine(chosen[0].parameter),
        rounds=rounds,
        inference=inference,
    )


class _Bench:
    """The measurements of one layer.

    Args:
        one: Its weight.
        topology: Compact; that of the layer where it is truly sparse already.
        x: What it was called with, or None where it was not.
        backends: Those asked for; none for all that can run.
        inference: Whether forward passes are timed in place of training steps.
        rounds: Of each measurement.
        seed: Of the topologies on the ladder.
    """

    def __init__(
        self,
        one: Owned,
        topology: Topology,
        x: Tensor | None,
        *,
        backends: tuple[str, ...],
        inference: bool,
        rounds: int,
        seed: int,
    ) -> None:
        self._one = one
        self._topology = topology.to(one.parameter.device)
        self._x = x
        self._asked = backends
        self._inference = inference
        self._rounds = rounds
        self._seed = seed
        self._seconds: dict[str, float] = {}
        self._bytes: dict[str, HeldBytes] = {}

    def row(self) -> BenchRow:
        """All of them."""
        reason, break_even = self._obstacle(), None
        if not reason and self._x is not None:
            reason = self._measure(self._x)
            break_even = self._break_even(self._x)
        topology = self._topology
        return BenchRow(
            name=self._one.name,
            kind=type(self._one.owners[0][1]).__name__,
            shape=topology.shape,
            input_shape=() if self._x is None else tuple(self._x.shape),
            structure=str(topology.structure),
            nnz=topology.nnz,
            sparsity=topology.sparsity,
            seconds=self._seconds,
            bytes=self._bytes,
            break_even=break_even,
            reason=reason,
            input_gradient=self._x is not None and self._x.requires_grad and not self._inference,
        )

    def _obstacle(self) -> str:
        """Why nothing can be measured, or ""."""
        from regrow.nn import has_sparse_form

        _, module, attribute = self._one.owners[0]
        if not self._one.is_compact and not (has_sparse_form(module) and attribute == "weight"):
            return f"no truly sparse {type(module).__name__}"
        return "not called on these inputs" if self._x is None else ""

    def _measure(self, x: Tensor) -> str:
        """Time and bytes of each form; what is wrong with back ends."""
        from regrow.nn import least_seconds

        dense, weight = self._dense, self._topology
        steps = {DENSE: self._step(dense, x)}
        if not self._inference:
            steps[MASKED] = self._masked_step(dense, x)
        reasons: list[str] = []
        layers = {}
        for name in self._candidates(x, reasons):
            layers[name] = self._sparse(dense, weight, name)
            try:
                steps[name] = self._step(layers[name], x)
            except BackendUnavailableError as error:
                reasons.append(f"{name}: {error}")
        seconds = least_seconds(list(steps.values()), device=x.device, rounds=self._rounds)
        self._seconds = dict(zip(steps, seconds, strict=True))
        size = _weight(dense).element_size()
        self._bytes = _served_bytes(weight, size) if self._inference else _dense_bytes(weight, size)
        ran = [layers[name] for name in steps if name in layers]
        if ran:
            found = (_sparse_bytes(one, trained=not self._inference) for one in ran)
            self._bytes[SPARSE] = max(found, key=lambda b: b.held)
        return "; ".join(reasons)

    def _step(self, layer: nn.Module, x: Tensor) -> Callable[[], None]:
        """What is timed of a layer."""
        from regrow.nn import layer_pass, layer_step

        return layer_pass(layer, x) if self._inference else layer_step(layer, x)

    def _masked_step(self, dense: nn.Module, x: Tensor) -> Callable[[], None]:
        from regrow.nn import layer_step

        dead = torch.empty_like(_weight(dense), dtype=torch.bool, requires_grad=False)
        torch.logical_not(self._topology.mask, out=dead)
        return layer_step(dense, x, dead={"weight": dead})

    @cached_property
    def _dense(self) -> nn.Module:
        from regrow.nn import SparseModule, dense_form

        module = self._one.owners[0][1]
        return dense_form(module) if isinstance(module, SparseModule) else module

    def _sparse(self, dense: nn.Module, topology: Topology, backend: str) -> SparseModule:
        from regrow.nn import sparse_form

        return sparse_form(dense, topology, backend=backend)

    def _candidates(self, x: Tensor, reasons: list[str]) -> list[str]:
        """Back ends that can run; why those that were asked for cannot."""
        from regrow.ops import why_not

        found = []
        for name, why in why_not(x.device, x.dtype).items():
            if name not in self._asked and (self._asked or name == "reference"):
                continue
            if why:
                reasons.append(f"{name}: {', '.join(why)}")
            else:
                found.append(name)
        return found

    def _break_even(self, x: Tensor) -> float | None:
        """Bisection over the ladder, with what is known of the layer's own sparsity."""
        own = {k: s for k, s in self._seconds.items() if k not in (DENSE, MASKED)}
        structure, mine = self._topology.structure, self._topology.sparsity
        if not own or structure.fixed_sparsity is not None:
            return None
        backend = min(own, key=lambda name: own[name])
        first, last = 0, len(LADDER)
        if own[backend] < self._seconds[DENSE]:
            last = sum(step < mine for step in LADDER)
        else:
            first = sum(step <= mine for step in LADDER)
        while first < last:
            middle = (first + last) // 2
            if self._is_faster(x, LADDER[middle], backend):
                last = middle
            else:
                first = middle + 1
        return LADDER[first] if first < len(LADDER) else math.inf

    def _is_faster(self, x: Tensor, sparsity: float, backend: str) -> bool:
        from regrow.nn import least_seconds

        structure, shape = self._topology.structure, self._topology.shape
        n_units = structure.n_units(shape)
        step = structure.n_groups(shape) if structure.even_groups else 1
        drawn = random_topology(
            shape,
            step * round(n_units * (1 - sparsity) / step),
            generator=derived_generator(self._seed, "bench", self._one.name, str(sparsity)),
            structure=structure,
            compact=True,
        )
        dense = self._dense
        steps = [self._step(layer, x) for layer in (dense, self._sparse(dense, drawn, backend))]
        of_dense, of_sparse = least_seconds(steps, device=x.device, rounds=self._rounds)
        return of_sparse < of_dense


def _weight(dense: nn.Module) -> Tensor:
    return dense.weight  # type: ignore[return-value]


def _dense_bytes(topology: Topology, size: int) -> dict[str, HeldBytes]:
    """Of a dense weight, and of a masked one: what ``MaskedWeight`` holds beside it."""
    n = size * topology.n_elements
    # One flag an element; of each unit whether it is and was ever active, and since when.
    flags = topology.n_elements + 2 * topology.n_units + 4 * topology.n_active
    return {DENSE: HeldBytes(n, n, 0, n, 2 * n), MASKED: HeldBytes(n, n, flags, n, 2 * n)}


def _served_bytes(topology: Topology, size: int) -> dict[str, HeldBytes]:
    """Of a dense weight that is not trained."""
    return {DENSE: HeldBytes(size * topology.n_elements, 0, 0, 0, 0)}


def _sparse_bytes(layer: SparseModule, *, trained: bool) -> HeldBytes:
    """Of a truly sparse layer that has run: with the columns, where it keeps them."""
    n = layer.nnz * layer.values.element_size()
    held = layer.layout.pattern(with_columns=False)
    indices = sum(one.nbytes for one in held if isinstance(one, Tensor))
    return HeldBytes(n, n, indices, n, 2 * n) if trained else HeldBytes(n, 0, indices, 0, 0)


def _check_backends(backends: Sequence[str] | None) -> tuple[str, ...]:
    from regrow.ops import BACKEND_NAMES

    known = [name for name in BACKEND_NAMES if name != "auto"]
    asked = () if backends is None else backends
    if isinstance(asked, str) or not isinstance(asked, Sequence):
        raise TypeError(f"backends must be a list of names, got {backends!r}")
    if backends is not None and not asked:
        raise ValueError("backends must name one or more, got an empty list")
    return tuple(check_choice(name, "backends", known) for name in asked)


def _ran(rows: Sequence[BenchRow]) -> list[str]:
    """Back ends that any row has, in order."""
    names = [name for row in rows for name in row.seconds if name not in (DENSE, MASKED)]
    return list(dict.fromkeys(names))


def _machine(parameter: Tensor) -> str:
    if parameter.device.type == "cuda":
        name = torch.cuda.get_device_name(parameter.device)
    else:
        n = torch.get_num_threads()
        name = f"{_cpu_name()}, {n} thread{'s' if n > 1 else ''}"
    return f"{name}, torch {torch.__version__}, {str(parameter.dtype).removeprefix('torch.')}"


def _cpu_name() -> str:
    """As Linux knows it, elsewhere as Python does."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
