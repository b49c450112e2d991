"""Which back end runs: the first that can, or the one that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from regrow._checks import check_choice
from regrow.errors import BackendUnavailableError
from regrow.ops._backend import Backend
from regrow.ops._numba import NUMBA
from regrow.ops._reference import REFERENCE
from regrow.ops._torch_sparse import TORCH

BACKENDS = (NUMBA, TORCH, REFERENCE)
"""In order of preference. benchmarks/ops/sparse_product.py times the first against dense torch."""
BY_NAME = {backend.name: backend for backend in BACKENDS}
BACKEND_NAMES = ("auto", *BY_NAME)
"""What ``backend=`` may be; "auto" first, then in order of preference."""

_asked: ContextVar[str] = ContextVar("regrow_backend", default="auto")


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run what ``backend="auto"`` leaves open on one back end, in this context (and thread).

    A backward pass runs where its forward pass ran.

    Args:
        name: "numba", "torch", "reference", or "auto".

    Raises:
        ValueError: An unknown name.

    Example:
        >>> from regrow.ops import CSR, product
        >>> from regrow.topology import Topology
        >>> layout, ones = CSR.of(Topology(torch.tensor([0, 3]), (2, 2))), torch.ones(2)
        >>> with use_backend("reference"):
        ...     product(ones, layout, torch.tensor([[5.0, 6.0]])).tolist()
        [[5.0, 6.0]]
    """
    token = _asked.set(check_choice(name, "name", BACKEND_NAMES))
    try:
        yield
    finally:
        _asked.reset(token)


def asked() -> str:
    """What ``use_backend`` asks for in this context."""
    return _asked.get()


def why_not(device: torch.device | str, dtype: torch.dtype) -> dict[str, list[str]]:
    """Why each back end cannot run there.

    Args:
        device: Where the tensors would be.
        dtype: Of the values and the activations.

    Returns:
        Name -> reasons, in order of preference; an empty list means that it can.
    """
    place = torch.device(device)
    return {backend.name: backend.unsupported(place, dtype) for backend in BACKENDS}


def available_backends(device: torch.device | str, dtype: torch.dtype) -> list[str]:
    """Names of the back ends that can run there, in order of preference.

    Args:
        device: Where the tensors would be.
        dtype: Of the values and the activations.

    Example:
        >>> available_backends("cpu", torch.float16)
        ['reference']
    """
    return [name for name, reasons in why_not(device, dtype).items() if not reasons]


def choose(name: str, device: torch.device, dtype: torch.dtype) -> Backend:
    """The back end of that name, or for "auto" what the context asks for, or the first that can.

    Raises:
        ValueError: An unknown name.
        BackendUnavailableError: It cannot run; the message has all the reasons.
    """
    name = check_choice(name, "backend", BACKEND_NAMES)
    if name == "auto":
        name = _asked.get()
    candidates = BACKENDS if name == "auto" else (BY_NAME[name],)
    found = {}
    for backend in candidates:
        found[backend.name] = backend.unsupported(device, dtype)
        if not found[backend.name]:
            return backend
    reasons = "; ".join(f"{key}: {', '.join(why)}" for key, why in found.items())
    others = "" if name == "auto" else f" (these can: {available_backends(device, dtype)})"
    raise BackendUnavailableError(f"no back end can run this: {reasons}{others}")


def chosen(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The name to hand to an operation: that of ``choose``.

    While torch.compile traces, which cannot look for packages, it stays what it is: the operation
    chooses when it runs.
    """
    if torch.compiler.is_compiling():
        return check_choice(name, "backend", BACKEND_NAMES)
    return choose(name, device, dtype).name
