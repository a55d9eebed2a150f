"""Ctrl-C and SIGTERM end a command between two steps, never inside one."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final, Self

ECHO_SECONDS: Final = 0.5
"""A launcher passes on a signal that its whole group has got: the same one, twice."""


class StopRequestedError(Exception):
    """A signal asked the command to end; raised where ending is safe."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class StopNowError(BaseException):
    """A signal ends the command wherever it is: before its work, after it, or the second time."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class StopRequest:
    """Remembers the first signal while its block runs; a second one ends the command at once."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._received_at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
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
        if self._received is not None:
            raise StopRequestedError(self._received)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._received is None:
            self._received, self._received_at = number, now
        elif now - self._received_at > ECHO_SECONDS:
            raise StopNowError(number)


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Outside the block of a `StopRequest`, let a signal end the command wherever it is.

    Raises:
        StopNowError: a signal has come.
    """
    previous = {
        number: signal.signal(number, _stop_now) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop_now(number: int, _frame: FrameType | None) -> None:
    raise StopNowError(number)
