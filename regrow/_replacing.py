"""A file that is replaced whole or not at all, whatever moment the process is killed at."""

import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".partial"

_NUMBERS = itertools.count()


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary file beside ``path`` that takes its place when the block ends well.

    The content is flushed to the disk before the rename, so that after a crash the name refers to
    the old content or to all of the new one. On an error the temporary file is removed. The new
    file has the permissions of the one it replaces, or those that any new file gets.

    Args:
        path: The file to write. Its folder is made where it is missing.

    Yields:
        Path to write to, in the same folder; an empty file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # (Numbered: threads may write one file at a time each.)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{next(_NUMBERS)}{SUFFIX}")
    temporary.unlink(missing_ok=True)  # left behind by a killed process of the same number
    try:
        mode = _permissions(target, _create(temporary))
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # Writers may make a file of their own in its place, for their eyes only.
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            temporary.chmod(mode)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _create(path: Path) -> int:
    """Make an empty file; the permissions that the umask left it.

    (The umask itself can only be read by changing it, for all threads.)
    """
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _permissions(target: Path, otherwise: int) -> int:
    """Those of a file that is there."""
    return stat.S_IMODE(target.stat().st_mode) if target.is_file() else otherwise
