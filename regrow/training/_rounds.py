"""One step of one or several optimizers, as a round: who has stepped, and who was skipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor
from torch.optim import Optimizer

from regrow._sharding import local
from regrow.errors import SparsityError


@final
class Round:
    """Keeps the order of the optimizers within a step, and knows of steps that a scaler skips.

    A ``GradScaler`` does not call ``step`` of an optimizer whose gradients overflowed; with
    ``fused=True`` it calls it, and the optimizer's own kernel does nothing. Such a round is not a
    performed step.

    Args:
        optimizers: In the order in which they step.
        agree: Whether what this rank sees in its gradients holds on all ranks; called only where
            an optimizer was left out, which all ranks come to together.
    """

    def __init__(
        self, optimizers: Sequence[Optimizer], *, agree: Callable[[bool], bool] = bool
    ) -> None:
        self._optimizers = optimizers
        self._agree = agree
        self._next = 0
        self._skipped = False
        self._later_finite: Tensor | None = None

    @property
    def skipped(self) -> bool:
        """Whether a scaler skipped one of the optimizers in this round."""
        return self._skipped

    @property
    def is_open(self) -> bool:
        """Whether some optimizer, but not the last one, has stepped."""
        return self._next > 0

    def is_last(self, index: int) -> bool:
        """Whether optimizer ``index`` ends the round."""
        return index == len(self._optimizers) - 1

    def enter(self, index: int) -> bool:
        """Optimizer ``index`` is about to step.

        Returns:
            Whether the round before was broken off: a scaler skipped its last optimizers.

        Raises:
            SparsityError: It is not its turn, and no overflow explains that.
        """
        broken_off = index < self._next
        if broken_off:
            if self._later_finite is None or self._agree(bool(self._later_finite.item())):
                raise SparsityError(self._order_message(index))
            self.close()
        if index > self._next:
            left_out = self._optimizers[self._next : index]
            if self._agree(bool(_all_finite(left_out).item())):
                raise SparsityError(self._order_message(index))
            self._skipped = True
        self._next = index
        if _found_inf(self._optimizers[index]):
            self._skipped = True
        later = self._optimizers[index + 1 :]
        self._later_finite = _all_finite(later) if later else None
        return broken_off

    def leave(self, index: int) -> None:
        """Optimizer ``index`` has stepped."""
        self._next = index + 1

    def close(self) -> None:
        """The round has ended."""
        self._next = 0
        self._skipped = False
        self._later_finite = None

    def _order_message(self, index: int) -> str:
        names = [f"{i}: {type(o).__name__}" for i, o in enumerate(self._optimizers)]
        return (
            f"optimizer {names[index]} stepped where {names[self._next % len(names)]} was due; "
            f"each steps once a step, in the order in which they were passed ({', '.join(names)})"
        )


def _found_inf(optimizer: Optimizer) -> bool:
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found.item())


def _all_finite(optimizers: Sequence[Optimizer]) -> Tensor:
    return all_finite(
        [
            parameter.grad
            for optimizer in optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
    )


def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Whether every element is finite, as a bool tensor: no wait for the device.

    Of sharded tensors this rank's part. The largest magnitude tells in one pass, and cannot
    overflow as a sum of squares would.
    """
    tensors = [tensor for tensor in map(local, tensors) if tensor.numel()]
    if not tensors:
        return torch.tensor(True)  # noqa: FBT003
    norms = torch._foreach_norm(tensors, math.inf)
    device = norms[0].device
    return torch.stack([norm.isfinite().to(device) for norm in norms]).all()
