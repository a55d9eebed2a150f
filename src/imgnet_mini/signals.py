"""Ctrl-C and SIGTERM end a command between two steps, never inside one."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequestedError(Exception):
    """A signal asked the command to end; raised where ending is safe."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class StopRequest:
    """Remembers the first signal while its block runs; a second one ends the command at once."""

    def __init__(self) -> None:
        self._received: int | None = None
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
        if self._received is not None:
            raise KeyboardInterrupt
        self._received = number
