"""Lock of a run: one process at a time writes it."""

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from imgnet_mini.errors import InUseError
from imgnet_mini.utils.atomic_file import open_nofollow, translate_write_errors, write_text
from imgnet_mini.utils.console import print_lines

if sys.platform == "win32":
    import msvcrt

    def _lock(file: BinaryIO) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        # A lock of the process, not of the open file: child processes do not inherit it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def lock_run(name: str, path: Path) -> Iterator[None]:
    """Hold the lock of a run during the block; the system releases it when the process ends.

    The file at `path` is not removed: else two processes could lock two files of this name.
    Nothing else in this process may open it: closing it again would release the lock.

    Raises:
        InUseError: another process holds the lock.
        WriteError: the folder cannot be written.
    """
    owner = path.with_suffix(".json")
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab", opener=open_nofollow)  # noqa: SIM115 - closed below
    with file:
        try:
            _lock(file)
        except (BlockingIOError, PermissionError) as error:
            raise InUseError(
                f"the run {name} is in use by {_describe_owner(owner)}: wait for it to end, stop "
                "it, or choose another --name"
            ) from error
        except OSError as error:  # some network file systems
            print_lines(
                f"Note: cannot lock {path.parent} ({error.strerror}): do not start this run twice"
            )
        write_text(owner, json.dumps(_this_process()) + "\n")
        try:
            yield
        finally:
            owner.unlink(missing_ok=True)


def _this_process() -> dict[str, object]:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": platform.node(), "since": since}


def _describe_owner(owner: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        holder = json.loads(owner.read_text("utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    return "another process"
