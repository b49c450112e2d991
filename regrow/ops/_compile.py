"""How kernels are compiled, and kept on disk.

numba keeps a compiled function until the file that defines it changes, or numba, or the processor
does; a change in what it calls from another file goes unseen. So the name under which it is kept
says from which sources of kernels it was made. Imports numba: loaded on first use.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from regrow._optional import require

numba = require("numba", extra="sparse")
OPTIONS = {"boundscheck": False, "error_model": "numpy"}
SOURCES = ("*kernels.py", "*vectors.py", "_blocks.py", "_parts.py", "_tasks.py", "_compile.py")


def _digest() -> str:
    folder = Path(__file__).parent
    paths = sorted(path for pattern in SOURCES for path in folder.glob(pattern))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:8]


DIGEST = _digest()


def _named(function: Callable[..., Any]) -> Callable[..., Any]:
    function.__qualname__ = f"{function.__name__}_{DIGEST}"
    return function


def kernel(function: Callable[..., Any]) -> Any:  # noqa: ANN401 - numba is untyped
    """Compile for each types it is called with, on first use; releases the interpreter's lock."""
    return numba.njit(nogil=True, cache=True, **OPTIONS)(_named(function))


def c_function(signature: Any, function: Callable[..., Any]) -> Any:  # noqa: ANN401
    """Compile now, as a C function with an ``address``."""
    return numba.cfunc(signature, cache=True, **OPTIONS)(_named(function))


inlined = numba.njit(nogil=True, forceinline=True, **OPTIONS)
"""Compile as part of what calls it."""
