"""A batch on its way to a device."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")


class Batch(NamedTuple):
    """N images as a source gives them.

    images: (N, 3, S, S) uint8, ready but for what is done to whole batches; or, where `crops`
        are given, whole rows of a pack, (N, P, P, 3) uint8.
    targets, indices: (N,) int64, the classes, and the positions in the split.
    crops: (N, 5) float32, rows of `Crop`.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor
    crops: Tensor | None = None

    def apply(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same with each tensor changed."""
        crops = None if self.crops is None else change(self.crops)
        return Batch(change(self.images), change(self.targets), change(self.indices), crops)


class BatchSource(Protocol):
    """Where batches come from, epoch after epoch, in the order that was set before."""

    def batches(self) -> Iterator[Batch]:
        """The batches of the current epoch; all but rows of a resident pack on the host."""

    def close(self) -> None:
        """End its workers."""


def thread_pool(threads: int) -> ThreadPoolExecutor:
    """Threads that share work among them, and so start none of torch's own beneath them.

    Else each would bring up a team as large as the machine, and the teams wait for one another.
    """
    return ThreadPoolExecutor(
        max(1, threads), thread_name_prefix="imgnet-mini", initializer=_stay_single
    )


def _stay_single() -> None:
    torch.get_num_threads()  # torch sets up a new thread at its first call; what follows holds
    threadpool_limits(1, user_api="openmp")


def prefetch_map(
    work: Callable[[T], R], items: Iterable[T], pool: ThreadPoolExecutor, ahead: int
) -> Generator[R]:
    """Results in the order of the items, with up to `ahead` of them made in advance."""
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


class DevicePrefetcher:
    """Moves batches to a device; to a GPU while it still works on the batch before."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._beside = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Batch) -> Batch:
        """Move one batch, from pinned memory without a wait."""
        if self._beside is None:
            return batch.apply(lambda tensor: tensor.to(self._device))
        with torch.cuda.stream(self._beside):
            moved = batch.apply(lambda tensor: tensor.to(self._device, non_blocking=True))
        # The network's stream waits for the copy, the host does not; and the memory is not
        # given to another batch before that stream is done with it.
        here = torch.cuda.current_stream(self._device)
        here.wait_stream(self._beside)
        return moved.apply(lambda tensor: _keep_for(tensor, here))


def _keep_for(tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
    tensor.record_stream(stream)
    return tensor
