"""The shared memory through which worker processes pass batches; containers often have little."""

import shutil
import sys
from pathlib import Path
from typing import Final

from imgnet_mini.errors import WriteError
from imgnet_mini.utils.console import format_bytes

PREFETCH_FACTOR: Final = 2
"""Batches that each worker loads in advance."""

_FOLDER: Final = Path("/dev/shm")  # noqa: S108 - where Linux has it


def check_shared_memory(workers: int, batch_bytes: int, local_world_size: int = 1) -> None:
    """Check for enough shared memory before workers start, which would crash or hang without.

    local_world_size: processes on this machine, each with as many workers.

    Raises:
        WriteError: the prefetched batches do not fit.
    """
    if not workers or sys.platform != "linux" or not _FOLDER.is_dir():
        return
    free = shutil.disk_usage(_FOLDER).free // local_world_size
    if free < _needed_bytes(workers, batch_bytes):
        raise _error(free, workers, batch_bytes)


def shared_memory_error(workers: int, batch_bytes: int) -> WriteError:
    """Return the error for a batch that did not fit."""
    free = shutil.disk_usage(_FOLDER).free if _FOLDER.is_dir() else 0
    return _error(free, workers, batch_bytes)


def _needed_bytes(workers: int, batch_bytes: int) -> int:
    """Return the size of the prefetched batches and the one in use."""
    return (workers * PREFETCH_FACTOR + 1) * batch_bytes


def _error(free: int, workers: int, batch_bytes: int) -> WriteError:
    fewer = min(workers - 1, (free // batch_bytes - 1) // PREFETCH_FACTOR)
    choice = f"--workers {fewer} or 0" if fewer > 0 else "--workers 0"
    return WriteError(
        f"{_FOLDER} has {format_bytes(free)} free, and {workers} worker(s) need "
        f"{format_bytes(_needed_bytes(workers, batch_bytes))}: use {choice}, a smaller "
        "--batch-size, or docker run --shm-size=1g"
    )
