"""Files that are written whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from imgnet_mini.errors import WriteError

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary neighbour of `path` that takes its name once the block ends well.

    File and folder are flushed to the disk before and after the renaming, so that what
    has been reported as saved survives a power cut.

    Raises:
        WriteError: the folder or the file cannot be written; `path` is as it was.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX, dir=path.parent
        )
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes it private to its owner
        temporary.replace(path)
        flush_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        reason = _system_error(error)
        if reason is not None:
            raise WriteError(f"cannot write {path}: {reason.strerror or reason}") from error
        raise


def write_text(path: Path, text: str) -> None:
    r"""Write a whole text file as UTF-8 with `\\n` line ends.

    Raises:
        WriteError: see `replacing`.
    """
    with replacing(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))  # as in file names


def _system_error(error: BaseException | None) -> OSError | None:
    """The operating system's error that is this one or lies behind it.

    torch reports a full disk as a RuntimeError and keeps the cause in its context.
    """
    while isinstance(error, RuntimeError):
        error = error.__cause__ or error.__context__
    return error if isinstance(error, OSError) else None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def flush_folder(folder: Path) -> None:
    """Come back once the names in a folder are on the disk."""
    if os.name == "posix":  # Windows cannot open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
