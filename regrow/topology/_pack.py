"""Booleans as bits, for checkpoints."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from regrow.errors import SparsityError
from regrow.topology._arguments import check_tensor


def pack_bits(flags: Tensor) -> Tensor:
    """One bit for each flag.

    Args:
        flags: (n,) bool on any device.

    Returns:
        (ceil(n / 8),) uint8 on the CPU, first flag in the highest bit.

    Example:
        >>> pack_bits(torch.tensor([True, False, False, False, False, False, False, True])).tolist()
        [129]
    """
    return torch.from_numpy(np.packbits(flags.cpu().numpy()))


def unpack_bits(packed: Tensor, n: int) -> Tensor:
    """The flags that ``pack_bits`` packed.

    Args:
        packed: (ceil(n / 8),) uint8.
        n: Number of flags.

    Returns:
        (n,) bool on the CPU.

    Raises:
        TypeError: No tensor.
        SparsityError: Wrong dtype or length, no dense tensor, or bits set behind the last flag.
    """
    wanted = (-(-n // 8),)
    packed = check_tensor(packed, "packed")
    if packed.dtype != torch.uint8 or packed.shape != wanted:
        raise SparsityError(
            f"{n} packed flags are a uint8 tensor of shape {wanted}, got {packed.dtype} "
            f"{tuple(packed.shape)}"
        )
    bits = np.unpackbits(packed.cpu().numpy())
    if bits[n:].any():
        raise SparsityError(f"packed flags have bits set behind the last of {n} flags")
    return torch.from_numpy(bits[:n].astype(np.bool_))
