"""A file that is replaced whole or not at all, whatever moment the process is killed at."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".partial"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place when the block ends well.

    The content is flushed to the disk before the rename, so that after a crash the name refers to
    the old content or to all of the new one. On an error the temporary file is removed.

    Args:
        path: The file to write. Its folder is made where it is missing.

    Yields:
        Path to write to, in the same folder.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}{SUFFIX}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
