"""Atomic file writes: a file is written completely or not at all."""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, cast

from imgnet_mini.errors import WriteError
from imgnet_mini.utils.console import format_bytes, print_warning

TEMPORARY_SUFFIX = ".tmp"

_REFUSALS: Final = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
"""Errors of network mounts and others, without file modes or the flushing of folders."""

_noted: set[str] = set()
"""Notes on file systems made by this process."""


@contextmanager
def atomic_write(path: Path, *, expected_bytes: int | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; rename it to `path` if the block succeeds.

    The file is flushed to the disk before the renaming and its folder after it: a saved file
    survives a power cut.

    expected_bytes: size of the file, if known, for the message about a full disk.

    Raises:
        WriteError: the folder or the file cannot be written; `path` is unchanged.
    """
    with translate_write_errors(path, expected_bytes), temporary_file(path) as (file, temporary):
        yield file
        flush_and_close(file, temporary)
        temporary.replace(path)
        fsync_folder(path.parent)


@contextmanager
def temporary_file(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a temporary file beside `path` for writing; remove it if the block fails.

    Its name is unpredictable, and no existing file is opened.
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
    """Open a file, but no symlink: an `opener` for files that are not written atomically.

    Windows has no such flag and follows links.

    Raises:
        OSError: the path is a symlink.
    """
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def flush_and_close(file: BinaryIO, temporary: Path) -> None:
    """Flush a temporary file to the disk and close it, ready to be renamed."""
    file.flush()
    with _noting_refusal("takes no file modes: others may be unable to read its files", temporary):
        temporary.chmod(0o666 & ~_umask())  # mkstemp has set 0o600
    os.fsync(file.fileno())
    file.close()  # Windows cannot rename an open file


@contextmanager
def translate_write_errors(path: Path, expected_bytes: int | None = None) -> Iterator[None]:
    """Turn an `OSError` of the block into a `WriteError`, with the free space if the disk is full.

    Raises:
        WriteError: `path`, or another file in the block, cannot be written.
    """
    try:
        yield
    except BaseException as error:
        cause = _root_cause(error)
        if not isinstance(cause, OSError):
            if isinstance(cause, Exception):
                raise
            raise cause from None  # an interruption inside torch.save
        reason = cause.strerror or str(cause)
        if cause.errno in (errno.ENOSPC, errno.EDQUOT):
            reason += _describe_space(path, expected_bytes)
        raise WriteError(f"cannot write {_failed_path(cause, path)}: {reason}") from error


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Make a temporary folder beside `path`; put its files into `path` if the block succeeds.

    Files of its subfolders go into those of `path`. Other files that are in `path` stay.

    Raises:
        WriteError: a file or folder cannot be written.
    """
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX, dir=path.parent
        ) as name:
            yield Path(name)
            path.mkdir(exist_ok=True)
            for file in sorted(Path(name).rglob("*")):
                target = path / file.relative_to(name)
                if file.is_dir():
                    target.mkdir(exist_ok=True)
                else:
                    file.replace(target)
            fsync_folder(path)


def write_text(path: Path, text: str) -> None:
    r"""Write a text file atomically, as UTF-8 with `\\n` line ends.

    Raises:
        WriteError: see `atomic_write`.
    """
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))  # as in file names


def remove_temporary_files(*folders: Path, older_than: float = 0) -> int:
    """Remove temporary files of killed processes; return their number.

    older_than: seconds since the last write, if other processes may be writing.
    """
    latest = time.time() - older_than
    paths = [
        path
        for folder in folders
        for path in folder.glob(f".*{TEMPORARY_SUFFIX}")
        if path.is_symlink() or (path.is_file() and path.stat().st_mtime <= latest)
    ]
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def check_writable(folder: Path) -> None:
    """Check that files can be written in a folder, or that the folder can be made.

    Raises:
        WriteError: they cannot.
    """
    with translate_write_errors(folder):
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        tempfile.TemporaryFile(dir=existing, suffix=TEMPORARY_SUFFIX).close()


def free_bytes(path: Path) -> int:
    """Return the free space on the disk of a path, which need not exist."""
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(existing).free


def _failed_path(error: OSError, path: Path) -> Path:
    """Return the file named by the error; `path` for its temporary file and its parents."""
    if not isinstance(error.filename, str):
        return path
    named = Path(error.filename)
    is_path = named.name.endswith(TEMPORARY_SUFFIX) or path.is_relative_to(named)
    return path if is_path else named


def _describe_space(path: Path, expected_bytes: int | None) -> str:
    with suppress(OSError):
        needed = "" if expected_bytes is None else f"{format_bytes(expected_bytes)} needed, "
        free = format_bytes(free_bytes(path.parent))
        return f" ({needed}{free} free in {path.parent.absolute()})"
    return ""


def _root_cause(error: BaseException) -> BaseException:
    """Return the cause of an error of torch.save, such as a full disk or an interruption.

    torch raises a RuntimeError in its place, with the cause as context.
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
    """Wait until the entries of a folder are on the disk."""
    if os.name != "posix":  # Windows cannot open a folder
        return
    with _noting_refusal("cannot be flushed: a power cut may undo the last save", folder / "*"):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _noting_refusal(lack: str, path: Path) -> Iterator[None]:
    """Note once what the file system of a file does not offer, instead of failing."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        if lack not in _noted:
            _noted.add(lack)
            print_warning(f"Note: {path.parent} {lack} ({error.strerror})")
