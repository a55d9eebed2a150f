"""Ctrl-C and SIGTERM end a command between two steps, never inside one."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final, Self

from imgnet_mini.utils.early_exit import exit_on_signal

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
"""Those that end a command."""

ECHO_SECONDS: Final = 0.5
"""A launcher passes on a signal that its whole group has got: the same one, twice."""

RANK_ECHO_SECONDS: Final = 5.0
"""torchrun may take its time to do so, and one rank may save on behalf of all by then."""


class StopRequestedError(Exception):
    """A signal asked the command to end; raised where ending is safe."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class ImmediateStopError(BaseException):
    """A signal ends the command wherever it is: before its work, after it, or the second time."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class StopRequest:
    """Remembers the first signal while its block runs; a second one ends the command at once.

    distributed: whether this process is one of several.
    """

    def __init__(self, *, distributed: bool = False) -> None:
        self._distributed = distributed
        self.received: int | None = None
        """The first signal that has come."""
        self._received_at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Call between steps.

        Raises:
            StopRequestedError: a signal has come.
        """
        if self.received is not None:
            raise StopRequestedError(self.received)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = number, now
        elif now - self._received_at > (RANK_ECHO_SECONDS if self._distributed else ECHO_SECONDS):
            _stop_now(number, frame)


@contextmanager
def raise_on_signal(*, ignore_later: bool = False) -> Iterator[None]:
    """Outside the block of a `StopRequest`, let a signal end the command wherever it is.

    for_good: whether the process ends with the block; signals that come later are then ignored.

    Raises:
        StopNowError: a signal has come.
    """
    previous = {number: signal.signal(number, _stop_now) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_IGN if ignore_later else handler)


@contextmanager
def default_signal_handlers() -> Iterator[None]:
    """Let a signal end the process by itself, in a call that waits where Python handles none."""
    previous = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop_now(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        exit_on_signal(number)
    raise ImmediateStopError(number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
