"""What a method would do to a model, without training it."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from regrow._checks import check_choice, check_count
from regrow.accounting import Plan
from regrow.study._methods import DENSE, METHODS, attach_method
from regrow.study._schedule import rewiring_schedule

_N_STEPS = 100_000


def plan(
    model: nn.Module,
    *,
    method: str = "rigl",
    sparsity: float = 0.9,
    input_size: Sequence[int] | None = None,
    allocation: str = "erdos_renyi_kernel",
    seed: int = 0,
) -> Plan:
    """Say what a method would make of each tensor of a model at the start of training.

    Args:
        model: Any module. It is made sparse in place, and left detached.
        method: One of `METHODS` that makes a model sparse.
        sparsity: Target in [0, 1).
        input_size: Shape of one input without the batch, such as ``(3, 224, 224)``; without it
            there are no FLOPs.
        allocation: How much each layer gets, one of `ALLOCATIONS`.
        seed: Seed of the topology.

    Returns:
        One line a tensor: shape, structure, connections, sparsity, FLOPs of one input, bytes, and
        why a tensor stays dense; to be printed.

    Raises:
        ValueError: An unknown name, a sparsity that cannot be met, or an input that the model
            cannot take.
    """
    check_choice(method, "method", [name for name in METHODS if name not in DENSE])
    example = None
    if input_size is not None:
        example = torch.zeros(1, *(check_count(size, "input_size") for size in input_size))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = attach_method(
        method,
        model.eval(),
        optimizer,
        sparsity=sparsity,
        n_steps=_N_STEPS,
        schedule=rewiring_schedule(_N_STEPS),
        seed=seed,
        allocation=allocation,
    )
    if updater is None:
        raise ValueError(f"method {method!r} makes nothing sparse")
    try:
        # When it rewires depends on the length of a run, which a model alone does not have.
        return replace(updater.plan(example), notes=_notes(updater.sparsity, sparsity))
    except RuntimeError as error:
        raise ValueError(
            f"the model cannot take an input of shape {tuple(input_size or ())}: {error}"
        ) from error
    finally:
        updater.detach()


def _notes(counted: float, target: float) -> tuple[str, ...]:
    """A word on methods whose sparsity changes."""
    if abs(counted - target) < 1e-3:
        return ()
    return (f"as training begins; its last rewirings take it to sparsity {target:g}",)
