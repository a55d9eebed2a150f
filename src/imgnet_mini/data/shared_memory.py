"""The memory through which worker processes hand over batches; containers often have little."""

import shutil
import sys
from pathlib import Path
from typing import Final

from imgnet_mini.errors import WriteError
from imgnet_mini.utils.console import format_bytes

PREFETCHED: Final = 2
"""Batches that each worker makes in advance."""

_PLACE: Final = Path("/dev/shm")  # noqa: S108 - where Linux has it


def check_shared_memory(workers: int, batch_bytes: int, neighbours: int = 1) -> None:
    """Call before workers start: what does not fit would end them, or leave all waiting.

    neighbours: processes of this machine that each start so many workers.

    Raises:
        WriteError: the batches under way would not fit.
    """
    if not workers or sys.platform != "linux" or not _PLACE.is_dir():
        return
    free = shutil.disk_usage(_PLACE).free // neighbours
    if free < _need(workers, batch_bytes):
        raise WriteError(_advice(free, workers, batch_bytes))


def shared_memory_error(workers: int, batch_bytes: int) -> WriteError:
    """What to say once a batch did not fit."""
    free = shutil.disk_usage(_PLACE).free if _PLACE.is_dir() else 0
    return WriteError(_advice(free, workers, batch_bytes))


def _need(workers: int, batch_bytes: int) -> int:
    """Those made in advance, and the one in use."""
    return (workers * PREFETCHED + 1) * batch_bytes


def _advice(free: int, workers: int, batch_bytes: int) -> str:
    fewer = min(workers - 1, (free // batch_bytes - 1) // PREFETCHED)
    choice = f"--workers {fewer} or 0" if fewer > 0 else "--workers 0"
    return (
        f"{_PLACE} has {format_bytes(free)} free, and {workers} worker(s) need "
        f"{format_bytes(_need(workers, batch_bytes))}: use {choice}, a smaller --batch-size, or "
        "docker run --shm-size=1g"
    )
