"""What a bench found, and how it is printed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from regrow.accounting import in_units, text_table
from regrow.typing import Shape

DENSE, MASKED, SPARSE = "dense", "masked", "sparse"


@final
@dataclass(frozen=True)
class HeldBytes:
    """What one layer holds between steps, in bytes; without biases and activations.

    Args:
        values: The weight, or the values of its connections.
        gradient: As many; 0 in inference, as is the state of optimizers.
        indices: Where connections are; of a masked weight its flags and its past.
        momentum: State that SGD with momentum adds.
        adam: State that Adam adds.
    """

    values: int
    gradient: int
    indices: int
    momentum: int
    adam: int

    @property
    def held(self) -> int:
        """Value, gradient and indices."""
        return self.values + self.gradient + self.indices


@final
@dataclass(frozen=True)
class BenchRow:
    """One selected layer.

    Args:
        name: Canonical name of the weight.
        kind: The layer's class.
        shape: Of the weight.
        input_shape: Of what the layer was called with; () where it was not measured.
        structure: What a unit is.
        nnz: Connections.
        sparsity: Counted, in [0, 1).
        seconds: "dense", "masked" and each back end that could run -> seconds of a training step,
            or in inference of a forward pass, and then without "masked"; empty where the layer was
            not measured.
        bytes: "dense", "masked" and "sparse" -> what is held; likewise.
        break_even: Smallest sparsity of ``LADDER`` at which the fastest back end beats dense;
            infinite where none is, None where it was not looked for.
        reason: Why there is no truly sparse form, or why back ends cannot run it; "" otherwise.
        input_gradient: Whether the step computes the gradient of the input, as training does of all
            but a model's first layers.
    """

    name: str
    kind: str
    shape: Shape
    input_shape: Shape
    structure: str
    nnz: int
    sparsity: float
    seconds: Mapping[str, float]
    bytes: Mapping[str, HeldBytes]
    break_even: float | None
    reason: str
    input_gradient: bool = True

    @property
    def backend(self) -> str | None:
        """The fastest back end, or None where none could run."""
        own = {name: s for name, s in self.seconds.items() if name not in (DENSE, MASKED)}
        return min(own, key=lambda name: own[name]) if own else None

    @property
    def sparse_seconds(self) -> float | None:
        """Of the fastest back end."""
        return None if self.backend is None else self.seconds[self.backend]


@final
@dataclass(frozen=True)
class BenchReport:
    """Milliseconds and bytes of each selected layer, dense, masked and truly sparse; ``print`` it.

    Args:
        rows: One a selected layer, in the order of the model.
        sparsity: Counted over the selected layers.
        backends: Those that were asked for, in their order.
        machine: Processor, threads, torch and dtype.
        rounds: Of which the least is shown.
        inference: Whether forward passes were timed in place of training steps.
    """

    rows: tuple[BenchRow, ...]
    sparsity: float
    backends: tuple[str, ...]
    machine: str
    rounds: int
    inference: bool = False

    @property
    def measured(self) -> tuple[BenchRow, ...]:
        """Rows with numbers."""
        return tuple(row for row in self.rows if row.seconds)

    def seconds(self, kind: str) -> float:
        """A training step, or in inference a forward pass, of all measured layers, summed.

        Args:
            kind: "dense", "masked", a back end, "sparse" (of each layer the fastest back end) or
                "faster" (of each the faster one of sparse and dense). A layer that has no such
                number counts as dense.
        """
        total = 0.0
        for row in self.measured:
            dense, sparse = row.seconds[DENSE], row.sparse_seconds
            if kind == SPARSE:
                total += dense if sparse is None else sparse
            elif kind == "faster":
                total += dense if sparse is None else min(dense, sparse)
            else:
                total += row.seconds.get(kind, dense)
        return total

    def __str__(self) -> str:
        lines = [
            f"{'forward pass' if self.inference else 'training step'} of each layer on its own "
            f"input, least of {self.rounds} rounds in turn",
            self.machine,
            "",
            self._times(),
            "",
            self._sizes(),
            "",
            *self._summary(),
        ]
        return "\n".join(lines)

    @property
    def _kinds(self) -> tuple[str, ...]:
        return (DENSE, *(() if self.inference else (MASKED,)), *self.backends)

    def _times(self) -> str:
        kinds = self._kinds
        header = (
            "layer", "weight", "input", "sparsity", *(f"{name}\nms" for name in kinds),
            "dense /\nsparse", "break-even\nsparsity", "remark",
        )  # fmt: skip
        rows = []
        for row in self.rows:
            times = [_ms(row.seconds.get(kind)) for kind in kinds]
            ratio = ""
            if row.sparse_seconds is not None:
                ratio = f"{row.seconds[DENSE] / row.sparse_seconds:.2f}"
            shapes = [_shape(row.shape), _shape(row.input_shape)]
            tail = [ratio, _break_even(row.break_even), self._remark(row)]
            rows.append([row.name, *shapes, f"{row.sparsity:.4f}", *times, *tail])
        return text_table(header, rows, n_left=3, last_left=True)

    def _remark(self, row: BenchRow) -> str:
        if row.reason or row.input_gradient or self.inference:
            return row.reason
        return "its input needs no gradient"

    def _sizes(self) -> str:
        if self.inference:
            return self._served_sizes()
        header = (
            "held in training:\nvalue, gradient, indices", "nnz", "dense", "masked", "sparse",
            "momentum\ndense", "\nsparse", "Adam\ndense", "\nsparse",
        )  # fmt: skip
        rows: list[Sequence[str]] = []
        for row in self.measured:
            held = [row.bytes.get(kind) for kind in (DENSE, MASKED, SPARSE)]
            pair = held[0], held[2]
            cells = [one and one.held for one in held]
            cells += [one and one.momentum for one in pair] + [one and one.adam for one in pair]
            rows.append(
                [row.name, f"{row.nnz:,}"]
                + ["" if cell is None else in_units(cell, "B") for cell in cells]
            )
        return text_table(header, rows)

    def _served_sizes(self) -> str:
        rows = []
        for row in self.measured:
            held = (row.bytes.get(kind) for kind in (DENSE, SPARSE))
            cells = ["" if one is None else in_units(one.held, "B") for one in held]
            rows.append([row.name, f"{row.nnz:,}", *cells])
        return text_table(("held:\nvalue, indices", "nnz", "dense", "sparse"), rows)

    def _summary(self) -> list[str]:
        """All layers together."""
        dense = self.seconds(DENSE)
        if not dense:
            return ["no layer was measured"]
        kinds = (*self._kinds, SPARSE, "faster")
        words = {SPARSE: "fastest back end of each layer", "faster": "faster of both for each"}
        n = len(self.measured)
        lines = [f"{n} measured layers summed; sparsity {self.sparsity:.4f} over those selected"]
        for kind in kinds:
            seconds = self.seconds(kind)
            label = words.get(kind, kind)
            lines.append(f"  {label:<31}{_ms(seconds):>9} ms  {dense / seconds:6.2f} x dense")
        left = len(self.rows) - len(self.measured)
        if left:
            lines.append(f"{left} selected layers were not measured and are in no sum")
        return lines


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3f}"


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _break_even(sparsity: float | None) -> str:
    if sparsity is None:
        return ""
    return f">{LADDER[-1]:g}" if math.isinf(sparsity) else f"{sparsity:g}"


LADDER = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Sparsities at which break-even is looked for."""
