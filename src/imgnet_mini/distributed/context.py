"""What the ranks of a run do together. Rank 0 alone prints and writes."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any, Final, Protocol, TypeVar

import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from imgnet_mini.utils.torchrun_env import TorchrunEnv

T = TypeVar("T")

_FAILED: Final = "failed"
"""Key of the store."""

_FIRST_SPEAKS_SECONDS: Final = 1.0
"""What fails on all ranks is said by rank 0: the others wait so long before they speak."""

_POLL_SECONDS: Final = 0.05

_SYNC_BUFFERS: Final = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")  # the new name, and the old one
    if name in signature(DistributedDataParallel).parameters
)
"""What DistributedDataParallel calls the copying of buffers from rank 0 in each step."""


class Store(Protocol):
    """What ranks can read and write by themselves; it outlives each of them."""

    def set(self, key: str, value: str) -> None:
        """Write a value."""

    def get(self, key: str) -> bytes:
        """A value that is there."""

    def check(self, keys: list[str]) -> bool:
        """Whether values are there for all keys."""

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        """Write a value if there is none, or the expected one; return what is then there."""


class DistributedContext:
    """All processes of a run, as one of them sees them. Each call is made by all, in one order.

    With one process each call is what it would be without ranks, and costs nothing.
    """

    def __init__(self, launch: TorchrunEnv, store: Store | None = None) -> None:
        self.rank, self.world_size = launch.rank, launch.world_size
        self.local_rank, self.local_world_size = launch.local_rank, launch.local_world_size
        self.is_main_process = launch.is_main_process
        self.nodes = 1
        self._store = store
        self._node: dist.ProcessGroup | None = None
        self._turns = 0
        if self.world_size > 1:
            firsts = self.all_gather(self.rank - self.local_rank)
            self.nodes = len(set(firsts))
            for first in sorted(set(firsts)):  # every rank takes part in making every group
                members = [rank for rank, its in enumerate(firsts) if its == first]
                group = dist.new_group(members, backend="gloo")
                if isinstance(group, dist.ProcessGroup):  # of others it is a number
                    self._node = group

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """The sums over all ranks of some numbers, in float64, on the host."""
        if self.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def all_gather(self, value: T) -> list[T]:
        """The values of all ranks, in the order of ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast_from_rank0(self, work: Callable[[], T]) -> T:
        """What rank 0 makes of it, on all ranks; the others do not work at it."""
        result: list[Any] = [work() if self.is_main_process else None]
        if self.world_size > 1:
            dist.broadcast_object_list(result)
        made: T = result[0]
        return made

    def run_on_local_rank0(self, work: Callable[[], T]) -> T:
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
                time.sleep(_POLL_SECONDS)
        dist.broadcast_object_list(result, src=self.rank - self.local_rank, group=self._node)
        made: T = result[0]
        return made

    def all_gather_rows(self, rows: Tensor, positions: NDArray[Any], total: int) -> Tensor:
        """A table of which each rank has some rows, whole: (n, C) to (total, C) float64.

        positions: (n,) the places of a rank's rows; each place is one rank's. A rank that has none
            need not know how many columns there are.
        """
        columns = max(self.all_gather(rows.shape[1]))
        table = torch.zeros((total, columns), dtype=torch.float64)
        if len(positions):
            table[torch.from_numpy(positions)] = rows.double()
        if self.world_size > 1:
            dist.all_reduce(table)
        return table

    def wrap_ddp(self, model: nn.Module) -> nn.Module:
        """What a training step calls in place of the model: gradients are then means over ranks.

        Statistics of batch norms stay each rank's own: those of rank 0 are the model's.
        """
        if self.world_size == 1:
            return model
        device = next(model.parameters()).device
        options: dict[str, Any] = {_SYNC_BUFFERS: False}
        return DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **options,
        )

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give the statistics that rank 0 has gathered to the networks of all ranks."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def barrier(self) -> None:
        """Come back once all ranks are here."""
        self.all_reduce_sum([0.0])

    def claim_failure(self) -> bool:
        """Whether this rank is the one that says why all have to end: the first to ask is."""
        if self._store is None:
            return True
        if not self.is_main_process:
            time.sleep(_FIRST_SPEAKS_SECONDS)
        try:
            winner = self._store.compare_set(_FAILED, "", str(self.rank))
        except RuntimeError:  # the store went with torchrun, or with rank 0
            return self.is_main_process
        return bool(winner == str(self.rank).encode())


SINGLE_PROCESS: Final = DistributedContext(TorchrunEnv())
"""One process by itself."""


def no_sync(parallel: nn.Module) -> AbstractContextManager[None]:
    """Around the backward pass of a part of a batch that is not its last: gradients stay here."""
    if isinstance(parallel, DistributedDataParallel):
        return parallel.no_sync()
    return nullcontext()
