"""Agreement of the ranks after a number of steps: signals, and when to save."""

import time
from typing import Final

from imgnet_mini.distributed.context import DistributedContext
from imgnet_mini.utils.early_exit import SIGNALS
from imgnet_mini.utils.signals import StopRequest, StopRequestedError

_SYNC_SECONDS: Final = 1.0  # each sync waits for the device: about 0.2 ms of idle time


class RankSync:
    """Synchronizes the ranks about once a second, after the same step on each of them.

    Clocks and signals differ between ranks. In each sync they therefore agree on the number of
    steps until the next one, and all of them learn of a signal that any of them received.

    max_steps: steps between two syncs, at most.
    """

    def __init__(
        self, distributed: DistributedContext, stop: StopRequest, *, max_steps: int
    ) -> None:
        self._distributed = distributed
        self._stop = stop
        self._max_steps = max_steps
        self._planned_steps = 1
        self._steps = 0
        self._synced_at = time.perf_counter()

    def should_sync(self) -> bool:
        """Return whether to call `sync` now. Call after each step."""
        self._steps += 1
        if self._distributed.world_size > 1:
            return self._steps >= self._planned_steps
        return self._steps == self._max_steps or self._elapsed() > _SYNC_SECONDS

    def sync(self, decision: bool = False) -> bool:
        """Plan the steps until the next sync; return the decision of rank 0 on all ranks.

        Raises:
            StopRequestedError: a signal has come to any rank.
        """
        steps_per_second = self._steps / max(self._elapsed(), 1e-6)
        planned = min(self._max_steps, 2 * self._steps, int(_SYNC_SECONDS * steps_per_second))
        self._steps, self._synced_at = 0, time.perf_counter()
        if self._distributed.world_size == 1:
            return decision
        plan = [max(1, planned), decision] if self._distributed.is_main_process else [0, 0]
        received = [self._stop.received == number for number in SIGNALS]
        self._planned_steps, decided, *signals = map(
            round, self._distributed.all_reduce_sum([*plan, *received])
        )
        for number, count in zip(SIGNALS, signals, strict=True):
            if count:  # a later signal waits for the next sync: no other rank knows of it yet
                raise StopRequestedError(number)
        return bool(decided)

    def check(self) -> None:
        """Check for a signal between steps; several ranks check in `sync` only.

        Raises:
            StopRequestedError: a signal has come.
        """
        if self._distributed.world_size == 1:
            self._stop.check()

    def _elapsed(self) -> float:
        return time.perf_counter() - self._synced_at
