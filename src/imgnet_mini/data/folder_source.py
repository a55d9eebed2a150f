"""Batches decoded from image files, by worker processes."""

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

from imgnet_mini.data.batches import Batch
from imgnet_mini.data.crops import CROP_NUMBERS
from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.data.images import ImageError
from imgnet_mini.data.rng import uniforms
from imgnet_mini.data.sampler import BatchKey, ResumableBatchSampler
from imgnet_mini.data.shared_memory import (
    PREFETCHED,
    check_shared_memory,
    shared_memory_error,
)
from imgnet_mini.errors import DataError, ImgnetMiniError, WriteError

Load = Callable[[Path, Sequence[float], int], Tensor]
"""From a file, random numbers in [0, 1) and a side S to pixels: (3, S, S) uint8."""

_GRACE_SECONDS: Final = 20


class FolderSource:
    """Batches of image files.

    neighbours: processes of this machine that load as this one does.
    """

    def __init__(
        self,
        order: ResumableBatchSampler,
        split: ImageFolder,
        load: Load,
        *,
        workers: int,
        device: torch.device,
        neighbours: int = 1,
    ) -> None:
        batch_bytes = 3 * order.sizes.last**2 * order.max_micro_batch
        check_shared_memory(workers, batch_bytes, neighbours)
        self._workers, self._batch_bytes = workers, batch_bytes
        self._loader: DataLoader[Batch | ImgnetMiniError] = DataLoader(
            _Files(split, load, order.seed),
            sampler=order,
            batch_size=None,  # the dataset makes whole batches
            collate_fn=_as_it_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCHED if workers else None,
            pin_memory=device.type == "cuda",
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # else each epoch draws from the global one
        )

    def batches(self) -> Iterator[Batch]:
        """The batches of the order's epoch.

        Raises:
            DataError: an image cannot be decoded; names it.
            WriteError: shared memory is too small for the workers, or one was killed.
        """
        try:
            for batch in self._loader:
                if isinstance(batch, ImgnetMiniError):
                    raise batch
                yield batch
        except RuntimeError as error:  # a bus error may end a worker before it can say why
            if "shared memory" not in str(error):
                raise
            raise shared_memory_error(self._workers, self._batch_bytes) from error
        except (ConnectionError, EOFError) as error:  # of one that DataLoader saw alive still
            raise lost_worker() from error

    def close(self) -> None:
        """End the workers, also where the traceback of an error still holds them.

        DataLoader ends them with its iterator, which lives as long as what refers to it.
        """
        iterator = self._loader._iterator
        del self._loader
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()


class _Files(Dataset[Batch | ImgnetMiniError]):
    """Loads whole batches, into one tensor, so that images are not copied once more."""

    def __init__(self, split: ImageFolder, load: Load, seed: int | None) -> None:
        self._split = split
        self._load = load
        self._seed = seed

    def __getitem__(self, key: BatchKey) -> Batch | ImgnetMiniError:
        """Load a batch; an error is returned, since DataLoader would bury it in a traceback."""
        epoch, indices, size = key
        numbers: list[list[float]] = [[] for _ in indices]
        if self._seed is not None:
            numbers = uniforms(self._seed, epoch, indices, CROP_NUMBERS).tolist()
        try:
            pixels = [
                self._load(self._split.path(index), drawn, size)
                for index, drawn in zip(indices, numbers, strict=True)
            ]
        except ImageError as error:
            return DataError(
                f"{error}. To find all such files, run imgnet-mini check; to leave them out, start "
                "anew with --skip-bad"
            )
        shape = (len(pixels), *pixels[0].shape)
        images = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
        worker = get_worker_info()
        if worker is not None:
            try:
                # DataLoader would, in a thread whose failure leaves everyone waiting.
                images.share_memory_()  # type: ignore[no-untyped-call]
            except RuntimeError:
                return shared_memory_error(worker.num_workers, images.nbytes)
        torch.stack(pixels, out=images)
        targets = torch.from_numpy(self._split.targets[indices])
        return Batch(images, targets, torch.from_numpy(indices))


def lost_worker() -> WriteError:
    """What to say once a worker is gone."""
    return WriteError(
        "a worker process was killed, by the system perhaps, where memory ran out: use fewer "
        "--workers, or a smaller --batch-size"
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin_worker(worker: int) -> None:
    """Signals often reach the whole process group; workers live until the run is saved."""
    del worker
    sys.excepthook = _print_unless_cut_off
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):  # not on Windows, where SIGTERM cannot be handled either
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))


def _print_unless_cut_off(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """The thread that hands over batches says here that its reader has gone, which knows why."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)
