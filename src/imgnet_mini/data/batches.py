"""A batch, its random numbers, and its way to a device."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from imgnet_mini.config.fields import available_cpus
from imgnet_mini.data.images import ImageError
from imgnet_mini.data.rng import RandomStream, seeded, uniforms
from imgnet_mini.data.sampler import BatchKey

T = TypeVar("T")
R = TypeVar("R")


class Batch(NamedTuple):
    """N images as a source yields them.

    images: (N, 3, S, S) uint8, cropped; or, with `crops`, whole rows of a pack, (N, P, P, 3) uint8.
    targets: (N,) int64, classes.
    key: the epoch, the indices of the images in the split, and S.
    crops: (N, 5) float32, rows of `Crop`, still to be applied on the device.
    """

    images: Tensor
    targets: Tensor
    key: BatchKey
    crops: Tensor | None = None

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with a function applied to each of its tensors."""
        crops = None if self.crops is None else function(self.crops)
        return Batch(function(self.images), function(self.targets), self.key, crops)


@dataclass(frozen=True)
class BatchRandom:
    """One stream of random numbers for N images; a function of (seed, epoch, index) alone."""

    stream: RandomStream
    seed: int
    key: BatchKey

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return `count` numbers in [0, 1) for each image: (N, count)."""
        return uniforms(self.seed, self.key.epoch, self.key.indices, count, stream=self.stream)

    def seeded(self, position: int) -> AbstractContextManager[None]:
        """Seed torch's global CPU generator for the image at a position of the batch.

        The generator's state is restored afterwards; `stream.skip` is not used.
        """
        index = int(self.key.indices[position])
        return seeded(self.seed, self.key.epoch, index, *self.stream.key)


class BatchSource(Protocol):
    """Batches of a split, in the order of its sampler."""

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of the sampler's epoch, in host memory unless the pack is resident."""

    @property
    def can_free_memory(self) -> bool:
        """Return whether `free_memory` would free device memory."""
        return False

    def free_memory(self) -> bool:
        """Free device memory that the batches can do without; return whether there was any."""
        return False

    def close(self) -> None:
        """End the worker processes or threads."""


def thread_pool(threads: int) -> ThreadPoolExecutor:
    """Return a thread pool in whose threads torch and OpenMP run single-threaded.

    Otherwise each thread would start as many OpenMP threads as there are cores.
    """
    return ThreadPoolExecutor(
        max(1, threads), thread_name_prefix="imgnet-mini", initializer=_limit_to_one_thread
    )


def _limit_to_one_thread() -> None:
    torch.get_num_threads()  # a thread's first call of torch sets its OpenMP threads: limit later
    threadpool_limits(1, user_api="openmp")


def prefetch_map(
    function: Callable[[T], R], items: Iterable[T], pool: ThreadPoolExecutor, ahead: int
) -> Generator[R]:
    """Yield the results for all items in order, with up to `ahead` of them computed in advance."""
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def decode_all(
    decode: Callable[[T], R],
    items: Iterable[T],
    *,
    threads: int | None = None,
    ahead: int | None = None,
) -> Generator[R | ImageError]:
    """Yield the results for all items in order, decoded by threads; an ImageError as one of them.

    threads: None: one per core; ahead: results computed in advance, None: two per thread.
    """
    threads = threads or available_cpus()

    def attempt(item: T) -> R | ImageError:
        try:
            return decode(item)
        except ImageError as error:
            return error

    with thread_pool(threads) as pool:
        yield from prefetch_map(attempt, items, pool, ahead or 2 * threads)


class InferenceBatch(NamedTuple):
    """Some files: images (3, S, S) uint8 of those that decode, and the errors of the others."""

    files: list[Path]
    images: list[Tensor]
    broken: list[ImageError]


def load_batches(
    files: Sequence[Path], load: Callable[[Path], Tensor], *, batch_size: int, threads: int
) -> Iterator[InferenceBatch]:
    """Yield batches of decoded files in order, prefetched by threads.

    load: from a file to (3, S, S) uint8; raises ImageError.
    """
    with closing(decode_all(load, files, threads=threads, ahead=batch_size)) as results:
        for first in range(0, len(files), batch_size):
            batch = InferenceBatch([], [], [])
            # The names end first, so no result is lost.
            for name, result in zip(files[first : first + batch_size], results, strict=False):
                if isinstance(result, ImageError):
                    batch.broken.append(result)
                else:
                    batch.files.append(name)
                    batch.images.append(result)
            yield batch


def send_array(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """Copy an array to a device; the host does not wait for a GPU.

    From memory that is not pinned, the copy would wait for the current training step.
    """
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class DevicePrefetcher:
    """Moves batches to a device; to a GPU on a stream of their own, while it computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copy_stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Batch) -> Batch:
        """Move one batch; from pinned memory to a GPU this does not block."""
        if self._copy_stream is None:
            return batch.map_tensors(lambda tensor: tensor.to(self._device))
        with torch.cuda.stream(self._copy_stream):
            moved = batch.map_tensors(lambda tensor: tensor.to(self._device, non_blocking=True))
        # The compute stream waits for the copy, the host does not. The allocator must not reuse
        # the memory before the compute stream is done with it.
        compute_stream = torch.cuda.current_stream(self._device)
        compute_stream.wait_stream(self._copy_stream)
        return moved.map_tensors(lambda tensor: _record_stream(tensor, compute_stream))


def _record_stream(tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
    tensor.record_stream(stream)
    return tensor
