"""Batches decoded from image files by worker processes."""

import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.data.batches import Batch, BatchSource
from imgnet_mini.data.crops import CROP_NUMBERS
from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.data.images import ImageError
from imgnet_mini.data.rng import uniforms
from imgnet_mini.data.sampler import BatchKey, ResumableBatchSampler
from imgnet_mini.errors import DataError, ImgnetMiniError, LostWorkerError, WriteError
from imgnet_mini.utils.console import format_bytes
from imgnet_mini.utils.early_exit import SIGNALS

LoadImage = Callable[[Path, Sequence[float], int], Tensor]
"""From a file, random numbers in [0, 1) and a size S to pixels: (3, S, S) uint8."""

_GRACE_SECONDS: Final = 20

PREFETCH_FACTOR: Final = 2
"""Batches that each worker loads in advance."""

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where Linux has it


class FolderSource(BatchSource):
    """Batches of image files.

    local_world_size: processes on this machine, each with as many workers.
    """

    def __init__(
        self,
        sampler: ResumableBatchSampler,
        split: ImageFolder,
        load_image: LoadImage,
        data: DataConfig,
        *,
        device: torch.device,
        local_world_size: int,
    ) -> None:
        workers = data.workers
        batch_bytes = 3 * sampler.sizes.last**2 * sampler.max_micro_batch
        check_shared_memory(workers, batch_bytes, local_world_size)
        self._workers, self._batch_bytes = workers, batch_bytes
        self._loader: DataLoader[Batch | ImgnetMiniError] = DataLoader(
            _BatchDataset(split, load_image, sampler.seed),
            sampler=sampler,
            batch_size=None,  # the dataset makes whole batches
            collate_fn=_identity,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCH_FACTOR if workers else None,
            pin_memory=device.type == "cuda",
            worker_init_fn=_init_worker,
            generator=torch.Generator(),  # else each epoch draws from the global generator
        )

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of the sampler's epoch.

        Raises:
            DataError: an image cannot be decoded; names it.
            WriteError: shared memory is too small for the workers, or a worker was killed.
        """
        try:
            for batch in self._loader:
                if isinstance(batch, ImgnetMiniError):
                    raise batch
                yield batch
        except RuntimeError as error:  # a bus error may end a worker before it can report
            if "shared memory" not in str(error):
                raise
            raise shared_memory_error(self._workers, self._batch_bytes) from error
        except (ConnectionError, EOFError) as error:  # DataLoader did not notice the worker's end
            raise lost_worker_error() from error

    def close(self) -> None:
        """End the workers, even while the traceback of an error refers to DataLoader's iterator.

        DataLoader itself ends them only once its iterator is garbage-collected.
        """
        iterator = self._loader._iterator
        del self._loader
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()


class _BatchDataset(Dataset[Batch | ImgnetMiniError]):
    """Loads whole batches into one tensor, which saves the copy that collating would make."""

    def __init__(self, split: ImageFolder, load_image: LoadImage, seed: int | None) -> None:
        self._split = split
        self._load_image = load_image
        self._seed = seed

    def __getitem__(self, key: BatchKey) -> Batch | ImgnetMiniError:
        """Load a batch; return an error, since DataLoader adds a traceback to raised ones."""
        u: list[list[float]] = [[] for _ in key.indices]
        if self._seed is not None:
            u = uniforms(self._seed, key.epoch, key.indices, CROP_NUMBERS).tolist()
        try:
            pixels = [
                self._load_image(self._split.path(index), row, key.size)
                for index, row in zip(key.indices, u, strict=True)
            ]
        except ImageError as error:
            return DataError(
                f"{error}. To find all such files, run imgnet-mini check; to leave them out, use "
                "--skip-bad"
            )
        shape = (len(pixels), *pixels[0].shape)
        images = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
        worker = get_worker_info()
        if worker is not None:
            try:
                # Else DataLoader does it in a thread, where a failure would block forever.
                images.share_memory_()  # type: ignore[no-untyped-call]
            except RuntimeError:
                return shared_memory_error(worker.num_workers, images.nbytes)
        torch.stack(pixels, out=images)
        return Batch(images, torch.from_numpy(self._split.targets[key.indices]), key)


def check_shared_memory(workers: int, batch_bytes: int, local_world_size: int = 1) -> None:
    """Check for enough shared memory before workers start, which would crash or hang without.

    Raises:
        WriteError: the prefetched batches do not fit.
    """
    if workers and sys.platform == "linux" and _SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(_SHARED_MEMORY).free // local_world_size
        if free < _needed_bytes(workers, batch_bytes):
            raise shared_memory_error(workers, batch_bytes, local_world_size)


def _needed_bytes(workers: int, batch_bytes: int) -> int:
    """Return the size of the prefetched batches and the one in use."""
    return (workers * PREFETCH_FACTOR + 1) * batch_bytes


def shared_memory_error(workers: int, batch_bytes: int, local_world_size: int = 1) -> WriteError:
    """Return the error for a batch that did not fit."""
    free = shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else 0
    free //= local_world_size
    fewer = min(workers - 1, (free // batch_bytes - 1) // PREFETCH_FACTOR)
    choice = f"--workers {fewer} or 0" if fewer > 0 else "--workers 0"
    return WriteError(
        f"{_SHARED_MEMORY} has {format_bytes(free)} free, and {workers} worker(s) need "
        f"{format_bytes(_needed_bytes(workers, batch_bytes))}: use {choice}, or "
        "docker run --shm-size=1g"
    )


def lost_worker_error() -> LostWorkerError:
    """Return the error for a worker process that was killed."""
    return LostWorkerError(
        "a worker process was killed, possibly because memory ran out: use fewer --workers"
    )


def _identity(batch: Any) -> Any:
    return batch


def _init_worker(worker: int) -> None:
    """Ignore signals, which often reach the whole process group: a stopped run saves first."""
    del worker
    sys.excepthook = _print_unless_disconnected
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):  # not on Windows, where SIGTERM cannot be handled either
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))


def _print_unless_disconnected(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Hide the error of a worker's queue thread whose reader is gone; the reader reports why."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)
