"""Lock files: one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from imgnet_mini.errors import InUseError


@contextmanager
def lock_file(path: Path, message: str) -> Iterator[None]:
    """Hold a lock during the block, without waiting for it; it ends with its process.

    path: of the lock, removed at the end; message: for the error.

    Raises:
        InUseError: another process holds the lock.
    """
    try:
        with FileLock(path, blocking=False):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
    except Timeout as error:
        raise InUseError(message) from error
