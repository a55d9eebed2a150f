"""The processes that train together, one for each GPU; torchrun starts them.

Rank 0 alone prints and writes. What fails on one rank ends all of them, with one message.
"""

import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from inspect import signature
from typing import Any, Final, Protocol, TypeVar

import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]  # they are there
from torch.nn.parallel import DistributedDataParallel

from imgnet_mini.errors import ImgnetMiniError, LostRankError, RankError, StoppedError
from imgnet_mini.launch import Launch
from imgnet_mini.sections import RuntimeConfig

T = TypeVar("T")

_FAILED: Final = "failed"
_FIRST_SPEAKS_SECONDS: Final = 1.0
"""What fails on all ranks is said by rank 0: the others wait so long before they speak."""
_SYNC_BUFFERS: Final = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")  # the latter until torch 2.14
    if name in signature(DistributedDataParallel).parameters
)
"""What DistributedDataParallel calls the copying of buffers from rank 0 in each step."""

_POLL_SECONDS: Final = 0.5
_GRACE_SECONDS: Final = 30
"""What torchrun leaves its processes between SIGTERM and SIGKILL."""


class Store(Protocol):
    """What ranks can read and write by themselves; it outlives each of them."""

    def set(self, key: str, value: str) -> None:
        """Write a value."""

    def check(self, keys: list[str]) -> bool:
        """Whether values are there for all keys."""

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        """Write a value if there is none, or the expected one; return what is then there."""


class Ranks:
    """All processes of a run, as one of them sees them. Each call is made by all, in one order.

    With one process each call is what it would be without ranks, and costs nothing.
    """

    def __init__(self, launch: Launch, store: Store | None = None) -> None:
        self.rank, self.size = launch.rank, launch.size
        self.local_rank, self.local_size = launch.local_rank, launch.local_size
        self.is_first = launch.is_first
        self.nodes = 1
        self._store = store
        self._node: dist.ProcessGroup | None = None
        self._turns = 0
        if self.size > 1:
            firsts = self.gather(self.rank - self.local_rank)
            self.nodes = len(set(firsts))
            for first in sorted(set(firsts)):  # every rank takes part in making every group
                members = [rank for rank, its in enumerate(firsts) if its == first]
                group = dist.new_group(members, backend="gloo")
                if isinstance(group, dist.ProcessGroup):  # of others it is a number
                    self._node = group

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over all ranks of some numbers, in float64, on the host."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_first(self, work: Callable[[], T]) -> T:
        """What rank 0 makes of it, on all ranks; the others do not work at it."""
        result: list[Any] = [work() if self.is_first else None]
        if self.size > 1:
            dist.broadcast_object_list(result)
        made: T = result[0]
        return made

    def from_first_of_node(self, work: Callable[[], T]) -> T:
        """What the first rank of each machine makes of it, on all its ranks; it may take long."""
        if self._store is None:
            return work()
        self._turns += 1
        done = f"turn {self._turns} of {self.rank - self.local_rank}"
        result: list[Any] = [None]
        if self.local_rank == 0:
            result = [work()]
            self._store.set(done, "")
        else:
            while not self._store.check([done]):  # signals are seen between two looks
                time.sleep(_POLL_SECONDS / 10)
        dist.broadcast_object_list(result, src=self.rank - self.local_rank, group=self._node)
        made: T = result[0]
        return made

    def assemble(self, rows: Tensor, positions: NDArray[Any], total: int) -> Tensor:
        """A table of which each rank has some rows, whole: (n, C) to (total, C) float64.

        positions: (n,) the places of a rank's rows; each place is one rank's. A rank that has none
            need not know how many columns there are.
        """
        columns = max(self.gather(rows.shape[1]))
        table = torch.zeros((total, columns), dtype=torch.float64)
        if len(positions):
            table[torch.from_numpy(positions)] = rows.double()
        if self.size > 1:
            dist.all_reduce(table)
        return table

    def parallel(self, model: nn.Module) -> nn.Module:
        """What a training step calls in place of the model: gradients are then means over ranks.

        Statistics of batch norms stay each rank's own: those of rank 0 are the model's.
        """
        if self.size == 1:
            return model
        device = next(model.parameters()).device
        options: dict[str, Any] = {_SYNC_BUFFERS: False}
        return DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **options,
        )

    def take_buffers(self, model: nn.Module) -> None:
        """Give the statistics that rank 0 has gathered to the networks of all ranks."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Come back once all ranks are here."""
        self.sum([0.0])

    def claim_failure(self) -> bool:
        """Whether this rank is the one that says why all have to end: the first to ask is."""
        if self._store is None:
            return True
        if not self.is_first:
            time.sleep(_FIRST_SPEAKS_SECONDS)
        try:
            winner = self._store.compare_set(_FAILED, "", str(self.rank))
        except RuntimeError:  # the store went with torchrun, or with rank 0
            return self.is_first
        return bool(winner == str(self.rank).encode())


ALONE: Final = Ranks(Launch())
"""One process by itself."""


def inner_step(parallel: nn.Module) -> AbstractContextManager[None]:
    """Around the backward pass of a part of a batch that is not its last: gradients stay here."""
    if isinstance(parallel, DistributedDataParallel):
        return parallel.no_sync()
    return nullcontext()


@contextmanager
def joined(runtime: RuntimeConfig) -> Iterator[Ranks]:
    """Link this process to the others that torchrun has started, if there are any.

    Raises:
        RankError: something that a user can cause and cure has failed, on this rank first.
        LostRankError: another rank is gone, or does not answer.
        SystemExit: the same, where another rank says why.
    """
    launch = Launch.from_environment()
    if launch.size == 1:
        yield ALONE
        return
    on_gpu = runtime.device in ("auto", "cuda") and torch.cuda.is_available()
    store, _, _ = next(rendezvous("env://", timeout=timedelta(minutes=5)))
    store = PrefixStore("imgnet-mini", store)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        timeout=timedelta(seconds=runtime.dist_timeout),
        store=store,
        rank=launch.rank,
        world_size=launch.size,
    )
    ranks = Ranks(launch, store)
    with _ending_with_parent(), _failing_together(ranks, runtime):
        yield ranks
    dist.destroy_process_group()


@contextmanager
def _failing_together(ranks: Ranks, runtime: RuntimeConfig) -> Iterator[None]:
    try:
        yield
    except StoppedError:  # all ranks have agreed on it
        raise
    except Exception as error:
        raise _said_once(ranks, _lost(error, runtime.dist_timeout) or error) from error


def _said_once(ranks: Ranks, error: Exception) -> BaseException:
    """What a rank ends with, so that one of them alone says why. A bug keeps its traceback."""
    speaks = ranks.claim_failure()
    if not isinstance(error, ImgnetMiniError) or (speaks and ranks.is_first):
        return error
    if not speaks:
        return SystemExit(error.exit_code)
    place = f"rank {ranks.rank} of {ranks.size}, on {platform.node()}"
    return RankError(f"{place}: {error}", error.exit_code)


def _lost(error: Exception, seconds: float) -> LostRankError | None:
    """What an error of the link between ranks means; None for any other."""
    if not isinstance(error, RuntimeError):
        return None
    text = str(error)
    safe = "What had been saved is whole: the same command with train --resume goes on from there"
    if "imed out" in text or "timeout" in text.lower():
        return LostRankError(
            f"no answer from another process for {seconds:g} s (--dist-timeout). {safe}"
        )
    if isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text:
        return LostRankError(f"another process of this run has ended without a word. {safe}")
    return None


@contextmanager
def _ending_with_parent() -> Iterator[None]:
    """Stop as by SIGTERM once torchrun is gone: without it, nobody would end the ranks."""
    parent, over = os.getppid(), threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_SECONDS):
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                if not over.wait(_GRACE_SECONDS):
                    os._exit(128 + signal.SIGTERM)
                return

    threading.Thread(target=watch, name="imgnet-mini-parent", daemon=True).start()
    try:
        yield
    finally:
        over.set()
