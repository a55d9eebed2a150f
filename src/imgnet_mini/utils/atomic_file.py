"""Files that are written whole or not at all."""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from imgnet_mini.errors import WriteError
from imgnet_mini.utils.console import format_bytes

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def atomic_write(path: Path, *, needs: int | None = None) -> Iterator[BinaryIO]:
    """Open a temporary neighbour of `path` that takes its name once the block ends well.

    File and folder are flushed to the disk before and after the renaming, so that what
    has been reported as saved survives a power cut.

    needs: how many bytes are about to be written, where that is known: a full disk is then
    reported with it.

    Raises:
        WriteError: the folder or the file cannot be written; `path` is as it was.
    """
    with translate_write_errors(path, needs), temporary_file(path) as (file, temporary):
        yield file
        flush_and_close(file, temporary)
        temporary.replace(path)
        fsync_folder(path.parent)


@contextmanager
def temporary_file(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A temporary neighbour of `path`, open for writing; removed if it is still there at the end.

    Its name cannot be foreseen, and nothing that was there before is opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX, dir=path.parent
    )
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield cast(BinaryIO, file), temporary
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def open_nofollow(path: str, flags: int) -> int:
    """An opener for a file that is written in its place, and may be a link that somebody planted.

    Raises:
        OSError: it is one; where the system cannot say so, the link is followed.
    """
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def flush_and_close(file: BinaryIO, temporary: Path) -> None:
    """Bring all of a temporary file to the disk, ready to take its name."""
    file.flush()
    temporary.chmod(0o666 & ~_umask())  # mkstemp makes it private to its owner
    os.fsync(file.fileno())
    file.close()  # Windows does not rename an open file


@contextmanager
def translate_write_errors(path: Path, needs: int | None = None) -> Iterator[None]:
    """Turn an error of the file system into one that says what was needed, and where.

    Raises:
        WriteError: the block has failed to write `path`.
    """
    try:
        yield
    except BaseException as error:
        reason = _cause(error)
        if not isinstance(reason, OSError):
            if isinstance(reason, Exception):
                raise
            raise reason from None  # what interrupted torch is not torch's error
        why = reason.strerror or str(reason)
        if reason.errno in (errno.ENOSPC, errno.EDQUOT):
            why += _space(path, needs)
        raise WriteError(f"cannot write {_culprit(reason, path)}: {why}") from error


def write_text(path: Path, text: str) -> None:
    r"""Write a whole text file as UTF-8 with `\\n` line ends.

    Raises:
        WriteError: see `atomic_write`.
    """
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))  # as in file names


def remove_temporary_files(*folders: Path, older_than: float = 0) -> int:
    """Remove the temporary files that killed processes have left; return how many there were.

    older_than: seconds since the last write to one, where a process may be at work.
    """
    latest = time.time() - older_than
    left = [
        path
        for folder in folders
        for path in folder.glob(f".*{TEMPORARY_SUFFIX}")
        if path.is_symlink() or (path.is_file() and path.stat().st_mtime <= latest)
    ]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def check_writable(folder: Path) -> None:
    """Call before work whose result is to be written into a folder, which may not be there yet.

    Raises:
        WriteError: nothing could be written there.
    """
    with translate_write_errors(folder):
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        tempfile.TemporaryFile(dir=there, suffix=TEMPORARY_SUFFIX).close()


def free_bytes(path: Path) -> int:
    """What is free on the disk that holds a path, or would."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(there).free


def _culprit(error: OSError, path: Path) -> Path:
    """What could not be written: the file that the system names, unless it stands for `path`."""
    if not isinstance(error.filename, str):
        return path
    named = Path(error.filename)
    stands_for_it = named.name.endswith(TEMPORARY_SUFFIX) or path.is_relative_to(named)
    return path if stands_for_it else named


def _space(path: Path, needs: int | None) -> str:
    with suppress(OSError):
        needed = "" if needs is None else f"{format_bytes(needs)} needed, "
        return (
            f" ({needed}{format_bytes(free_bytes(path.parent))} free in {path.parent.absolute()})"
        )
    return ""


def _cause(error: BaseException) -> BaseException:
    """What lies behind an error that torch reports: a full disk, or an interruption.

    It raises a RuntimeError, and keeps the cause in its context.
    """
    cause: BaseException | None = error
    while isinstance(cause, RuntimeError):
        cause = cause.__cause__ or cause.__context__
    return error if cause is None else cause


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def fsync_folder(folder: Path) -> None:
    """Come back once the names in a folder are on the disk."""
    if os.name == "posix":  # Windows cannot open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
