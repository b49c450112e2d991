"""Whether images fit into memory, asked before the first is decoded."""

import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def available_memory() -> int | None:
    """Bytes that can be had without swapping, as far as the system tells.

    On Linux what is available, and no more than a container may have in all; elsewhere all the
    memory there is, or None where not even that is known.
    """
    known = [number for number in (_available(), _group_limit(), _physical()) if number is not None]
    return min(known, default=None)


def check_memory(n_bytes: int, *, name: str, n_images: int) -> None:
    """Raise ValueError where images would not fit.

    Args:
        n_bytes: What they take.
        name: Data set.
        n_images: How many there are.
    """
    available = available_memory()
    if available is not None and n_bytes > available:
        raise ValueError(
            f"{n_images} images of {name} take {n_bytes / 1e9:.3g} GB as bytes in memory, and "
            f"{available / 1e9:.3g} GB are available; ask for fewer with train_samples and "
            "test_samples (--train-samples, --test-samples)"
        )


def _available() -> int | None:
    """MemAvailable: free, or held by caches that can be dropped."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    number = fields.get("MemAvailable", "").split()
    return 1024 * int(number[0]) if number and number[0].isdigit() else None


def _group_limit() -> int | None:
    try:
        text = _GROUP_LIMIT.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() else None  # "max": none


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
