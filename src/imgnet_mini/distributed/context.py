"""Collective operations of the ranks of a run. Rank 0 alone prints and writes files."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from inspect import signature
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from imgnet_mini.distributed.shared_arrays import share_arrays
from imgnet_mini.errors import LostRankError
from imgnet_mini.utils.torchrun_env import TorchrunEnv

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store  # the typed name of torch.distributed.Store

T = TypeVar("T")

_REPORTER_KEY: Final = "failed"
_RANK0_HEAD_START_SECONDS: Final = 1.0
"""An error of all ranks is reported by rank 0: the others wait this long before they claim it."""

_POLL_SECONDS: Final = 0.05

_SYNC_BUFFERS: Final = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")  # the new name, and the old one
    if name in signature(DistributedDataParallel).parameters
)
"""Option of DistributedDataParallel that copies the buffers of rank 0 in each step."""


class DistributedContext:
    """Ranks of a run, seen from one of them. All ranks make the same calls in the same order.

    With one process every call is local and costs nothing. With several machines, data goes between
    their first ranks and from these to the others: gloo takes as many turns as a group has ranks.

    store: key-value store of the ranks; torchrun hosts it, so it outlives each of them.
    timeout: of an operation between the ranks; None: the default of torch.
    """

    def __init__(
        self,
        env: TorchrunEnv,
        store: "Store | None" = None,
        *,
        timeout: timedelta | None = None,
    ) -> None:
        self.rank, self.world_size = env.rank, env.world_size
        self.local_rank, self.local_world_size = env.local_rank, env.local_world_size
        self.is_main_process = env.is_main_process
        self.nodes = 1
        self._store = store
        self._first_rank = self.rank - self.local_rank
        self._node_group: dist.ProcessGroup | None = None
        self._first_ranks_group: dist.ProcessGroup | None = None
        self._local_tasks = 0
        if self.world_size > 1:
            first_ranks = self.all_gather(self._first_rank)
            self.nodes = len(set(first_ranks))
            members = [rank for rank, first in enumerate(first_ranks) if first == self._first_rank]
            self._node_group = _new_group(members, timeout)
            if self.nodes > 1 and self.local_rank == 0:
                self._first_ranks_group = _new_group(sorted(set(first_ranks)), timeout)

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all ranks, computed in float64 on the CPU."""
        if self.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        self._all_reduce(total)
        return total.tolist()

    def _all_reduce(self, tensor: Tensor) -> None:
        if self.nodes == 1:
            dist.all_reduce(tensor)
            return
        dist.reduce(tensor, self._first_rank, group=self._node_group)
        if self._first_ranks_group is not None:
            dist.all_reduce(tensor, group=self._first_ranks_group)
        dist.broadcast(tensor, self._first_rank, group=self._node_group)

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all ranks, ordered by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast_from_rank0(self, function: Callable[[], T]) -> T:
        """Call a function on rank 0 only; return its result on all ranks.

        A machine holds NumPy arrays once, as in `run_on_local_rank0`.
        """
        results = [function()] if self.is_main_process else [cast(T, None)]
        if self._first_ranks_group is not None:
            dist.broadcast_object_list(results, group=self._first_ranks_group)
        return self._share_on_node(results[0])

    def run_on_local_rank0(self, function: Callable[[], T]) -> T:
        """Call a function on the first rank of each machine; return its result on all its ranks.

        The other ranks get NumPy arrays read-only and memory-mapped, so that a machine holds them
        once. No timeout applies to the function.

        Raises:
            LostRankError: another rank reports an error, and may be the one that is waited for.
        """
        if self._store is None:
            return function()
        self._local_tasks += 1
        done = f"local task {self._local_tasks} of {self._first_rank}"
        if self.local_rank == 0:
            result = function()
            self._store.set(done, "")
            return self._share_on_node(result)
        while not self._store.check([done]):  # Python handles signals between the checks
            if self._store.check([_REPORTER_KEY]):
                raise LostRankError("another rank has failed")
            time.sleep(_POLL_SECONDS)
        return self._share_on_node(cast(T, None))

    def _share_on_node(self, value: T) -> T:
        """Return the value of the first rank of this machine on all its ranks."""
        if self.local_world_size == 1:
            return value
        if self.local_rank == 0:
            with share_arrays(value) as shared:
                dist.broadcast_object_list([shared], self._first_rank, group=self._node_group)
                dist.barrier(self._node_group)  # all have mapped the arrays
            return value
        received = [cast(T, None)]
        dist.broadcast_object_list(received, self._first_rank, group=self._node_group)
        dist.barrier(self._node_group)
        return received[0]

    def all_gather_rows(self, rows: Tensor, positions: NDArray[Any], total: int) -> Tensor:
        """Assemble a table from the rows of all ranks: (n, C) to (total, C) float64.

        positions: (n,) row numbers in the table; each belongs to one rank. A rank without rows
            may pass any C.
        """
        columns = max(self.all_gather(rows.shape[1]))
        table = torch.zeros((total, columns), dtype=torch.float64)
        if len(positions):
            table[torch.from_numpy(positions)] = rows.double()
        if self.world_size > 1:
            self._all_reduce(table)
        return table

    def wrap_ddp(self, model: nn.Module) -> nn.Module:
        """Return the module to call in a training step; it averages gradients over the ranks.

        Batch norm statistics stay local to each rank; those of rank 0 are saved.
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
        """Copy the buffers of rank 0, such as batch norm statistics, to all ranks."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.all_reduce_sum([0.0])

    def command_line(self, command: str) -> str:
        """Return the line that runs a command of this package with as many processes."""
        if self.world_size == 1:
            return f"imgnet-mini {command}"
        where = "--standalone"
        if self.nodes > 1:
            where = f"--nnodes {self.nodes} --rdzv-backend c10d --rdzv-endpoint HOST:PORT"
        processes = f"--nproc-per-node {self.local_world_size}"
        return f"torchrun {where} {processes} -m imgnet_mini {command}"

    def claim_error_report(self) -> bool:
        """Return whether this rank reports an error: the first rank to ask does."""
        if self._store is None:
            return True
        if not self.is_main_process:
            time.sleep(_RANK0_HEAD_START_SECONDS)
        try:
            reporter = self._store.compare_set(_REPORTER_KEY, "", str(self.rank))
        except RuntimeError:  # the store ended with torchrun, or with rank 0
            return self.is_main_process
        return bool(reporter == str(self.rank).encode())


def _new_group(ranks: list[int], timeout: timedelta | None) -> dist.ProcessGroup:
    """Return a group of this and other ranks; those that are not in it need not call."""
    group = dist.new_group(ranks, timeout, backend="gloo", use_local_synchronization=True)
    return cast(dist.ProcessGroup, group)


SINGLE_PROCESS: Final = DistributedContext(TorchrunEnv())
"""Context of a run of one process."""


def no_sync(parallel: nn.Module) -> AbstractContextManager[None]:
    """Skip the gradient all-reduce: for all micro-batches of a step but the last."""
    if isinstance(parallel, DistributedDataParallel):
        return parallel.no_sync()
    return nullcontext()
