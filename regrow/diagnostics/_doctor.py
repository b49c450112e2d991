"""doctor: run the user's own training step three times, take it back, and say what is wrong."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from regrow.diagnostics._diagnosis import Diagnosis
from regrow.diagnostics._evidence import Evidence, Raised
from regrow.diagnostics._gradients import GradWatch
from regrow.diagnostics._hidden import ModuleWatch
from regrow.diagnostics._running import running
from regrow.diagnostics._scaling import ScaleWatch
from regrow.diagnostics._setup import check_arguments, examine, parameters_of
from regrow.diagnostics._snapshot import Snapshot
from regrow.diagnostics._steps import Call, StepWatch
from regrow.diagnostics._wiring import wiring
from regrow.training import TopologyUpdater

N_CALLS = 3
"""The first creates optimizer state, the second uses it, the third shows what depends on both."""

_NOT_PUT_BACK = (
    "put back: model, optimizer, updater, the global random state and what was passed in also. "
    "Not put back: whatever else step moves, such as the position of a data loader, a generator "
    "of its own, an averaged copy, files, and counters in your own objects"
)


def doctor(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    updater: TopologyUpdater,
    step: Callable[[], object],
    *,
    also: Sequence[object] = (),
) -> Diagnosis:
    """Run ``step`` three times, put everything back, and say which invariants it breaks.

    Looked at: that model, optimizers and updater hold the same tensors; that every optimizer that
    moves them was passed; that gradients arrive unchanged and dead entries of gradients and
    weights are zero; that a ``GradScaler`` in ``also`` scales and unscales once. What ``step``
    raises of ``ValueError`` and ``RuntimeError`` becomes a finding; anything else goes on to the
    caller, with all put back as well. Needs memory for one more copy of all that it puts back.

    Args:
        model: The model that the method was called with.
        optimizer: The optimizer, or all of them, that the method was called with.
        updater: What the method returned.
        step: The training step itself, without arguments: backward, ``optimizer.step()`` and all
            micro-batches that belong to it.
        also: Whatever else it moves and that has ``state_dict()`` and ``load_state_dict()``, to
            be put back too: schedulers, scalers, averaged copies.

    Returns:
        The findings, each with the line to change; ``print`` it.

    Raises:
        TypeError: An argument is of the wrong kind; nothing has run.
        ValueError: ``updater`` is of another model, or a parameter is sharded; nothing has run.

    Example:
        >>> model = torch.nn.Linear(8, 4)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> import regrow
        >>> updater = regrow.rigl(model, optimizer, sparsity=0.5, n_steps=200)
        >>> def step():
        ...     model(torch.ones(2, 8)).square().sum().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> print(doctor(model, optimizer, updater, step).is_healthy)
        True
    """
    optimizers = check_arguments(model, optimizer, updater, step, also)
    snapshot = Snapshot()
    snapshot.add_random_state()
    for thing in (*also, updater, model, *optimizers):
        snapshot.add(thing)
    setup = examine(model, optimizers, updater)
    scalers = [thing for thing in also if isinstance(thing, torch.amp.GradScaler)]
    known = [*optimizers, *(thing for thing in also if isinstance(thing, Optimizer))]
    scales = ScaleWatch(scalers, optimizers)
    steps = StepWatch(setup, known, scales.ready)
    grads, modules = GradWatch(setup), ModuleWatch(model)
    try:
        with ExitStack() as stack:
            for watch in (grads, scales, modules, steps):
                watch.attach(stack)
            raised = _call(step, steps, scales)
    finally:
        steps.strangers.restore()
        snapshot.restore()
    evidence = Evidence(setup, steps, grads, scales, modules, raised)
    found = wiring(evidence)
    found += running(evidence, wired=not found)
    return Diagnosis(tuple(found), tuple(_notes(evidence, also)), evidence.n_complete)


def _call(step: Callable[[], object], steps: StepWatch, scales: ScaleWatch) -> Raised | None:
    for number in range(1, N_CALLS + 1):
        steps.begin(Call(number))
        scales.begin()
        try:
            step()
        except (ValueError, RuntimeError) as error:  # SparsityError is a ValueError
            return Raised(error, _users_line(error), number)
        steps.end()
    return None


def _users_line(error: Exception) -> str:
    """The last line of the traceback that is neither ours nor an installed package's."""
    installed = [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib")]
    inside = [Path(__file__).parents[1], *installed]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(Path(frame.filename).is_relative_to(folder) for folder in inside)
    ]
    if not frames:
        return "(no line of your own)"
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line or '(source not found)'}"


def _notes(evidence: Evidence, also: Sequence[object]) -> list[str]:
    notes = [
        f"step also moved {type(optimizer).__name__} with {len(parameters_of(optimizer))} "
        "tensors, which was not passed: its weights and state were put back, gradients and "
        "buffers were not; pass it, its model and its updater in also=(...)"
        for optimizer in evidence.steps.strange
        if not any(optimizer is thing for thing in also)
    ]
    if evidence.scales.overflowed:
        notes.append("the scaler skipped a step, since gradients were not finite")
    return [*notes, _NOT_PUT_BACK]
