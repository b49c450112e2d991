"""A parameter that takes another number of values and stays the same object."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def resize(parameter: nn.Parameter, values: Tensor) -> None:
    """Give a parameter other values, of any number; its gradient goes, the object stays.

    Args:
        parameter: A leaf.
        values: Kept.
    """
    parameter.grad = None
    # While a graph of earlier steps is alive (the last loss is enough) torch goes on accumulating
    # into the parameter as it was, unless the type of its data changes.
    other = torch.float32 if values.dtype != torch.float32 else torch.float64
    parameter.data = values.new_empty(0, dtype=other)
    parameter.data = values
