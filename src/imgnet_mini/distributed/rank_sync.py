"""When to look up from the steps: the same step on every rank."""

import time
from typing import Final

from imgnet_mini.distributed.context import DistributedContext
from imgnet_mini.utils.signals import SIGNALS, StopRequest, StopRequestedError

_SECONDS: Final = 1.0  # a look waits for the device: about 0.2 ms of its idle time each


class RankSync:
    """Asks after each step whether it is time for a look, about once a second.

    Clocks and signals differ between ranks. So where there are several, they agree in each look on
    how many steps to take to the next one, and in one look they see a signal that came to any.

    most: steps between two looks.
    """

    def __init__(self, distributed: DistributedContext, stop: StopRequest, *, most: int) -> None:
        self._distributed = distributed
        self._stop = stop
        self._most = most
        self._planned = 1
        self._taken = 0
        self._looked_at = time.perf_counter()

    def should_sync(self) -> bool:
        """Call after each step."""
        self._taken += 1
        if self._distributed.world_size > 1:
            return self._taken >= self._planned
        return self._taken == self._most or self._elapsed() > _SECONDS

    def look(self, wish: bool = False) -> bool:
        """Start on the steps to the next look; return what rank 0 wishes.

        Raises:
            StopRequestedError: a signal has come to any rank.
        """
        lr = self._taken / max(self._elapsed(), 1e-6)
        planned = min(self._most, 2 * self._taken, int(_SECONDS * lr))
        self._taken, self._looked_at = 0, time.perf_counter()
        if self._distributed.world_size == 1:
            return wish
        said = [max(1, planned), wish] if self._distributed.is_main_process else [0, 0]
        heard = [self._stop.received == number for number in SIGNALS]
        self._planned, wished, *signals = map(
            round, self._distributed.all_reduce_sum([*said, *heard])
        )
        for number, times in zip(SIGNALS, signals, strict=True):
            if times:  # one that has come since is for the next look: nobody else knows of it
                raise StopRequestedError(number)
        return bool(wished)

    def check(self) -> None:
        """Call between steps: alone, a process need not wait for a look.

        Raises:
            StopRequestedError: a signal has come.
        """
        if self._distributed.world_size == 1:
            self._stop.check()

    def _elapsed(self) -> float:
        return time.perf_counter() - self._looked_at
