"""Limits of find-lr: Ctrl-C and a time limit. Both leave the best answer so far."""

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from imgnet_mini.distributed.context import DistributedContext
from imgnet_mini.distributed.rank_sync import RankSync
from imgnet_mini.lr_finder.trials import SearchEndedError
from imgnet_mini.utils.signals import StopRequest, StopRequestedError


class Limits:
    """The time limit and Ctrl-C, the same on all ranks.

    minutes: from now on; None: no limit.
    reached: the limit that was reached, in a sentence; empty before.
    """

    def __init__(
        self, stop: StopRequest, distributed: DistributedContext, *, minutes: float | None
    ) -> None:
        self.stop = stop
        self.reached = ""
        self._minutes = minutes
        self._distributed = distributed
        self._ends_at = math.inf if minutes is None else time.perf_counter() + 60 * minutes
        self._rank_sync = RankSync(distributed, stop, max_steps=1)

    def seconds_left(self) -> float:
        """Return the time left, of rank 0.

        Raises:
            SearchEndedError: none.
        """
        left = self._distributed.broadcast_from_rank0(lambda: self._ends_at - time.perf_counter())
        if self.reached or left <= 0:
            self.end_search()
        return left

    def end_search(self) -> NoReturn:
        """End the search for lack of time.

        Raises:
            SearchEndedError: always.
        """
        self.reached = self.reached or f"Stopped after {self._minutes:g} minutes (--max-minutes)."
        raise SearchEndedError(self.reached)

    @contextmanager
    def ending_search(self) -> Iterator[None]:
        """Turn Ctrl-C during the block into the end of the search.

        Raises:
            SearchEndedError: Ctrl-C.
            StopRequestedError: SIGTERM.
        """
        try:
            yield
        except StopRequestedError as error:
            if error.signal_number != signal.SIGINT:
                raise
            self.reached = "Stopped by Ctrl-C: the best answer so far."
            raise SearchEndedError(self.reached) from error

    def check_step(self) -> None:
        """Check both limits after a step.

        Raises:
            SearchEndedError: one is reached.
            StopRequestedError: SIGTERM.
        """
        with self.ending_search():
            late = self._rank_sync.sync(time.perf_counter() > self._ends_at)
            self._rank_sync.check()
        if late:
            self.end_search()
