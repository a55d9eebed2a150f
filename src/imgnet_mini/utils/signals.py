"""Signals, such as that of Ctrl-C: end a command between two steps, never inside one."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType, TracebackType
from typing import Any, Final, Self

from imgnet_mini.errors import StoppedError
from imgnet_mini.utils.early_exit import SIGNALS, exit_on_signal, is_ignored

DUPLICATE_SECONDS: Final = 0.5
"""A second signal within this time is a duplicate: a launcher forwards a signal of its group."""

RANK_DUPLICATE_SECONDS: Final = 5.0
"""Seconds for ranks: torchrun forwards signals later, and a rank may be saving for all."""


Handler = Callable[[int, FrameType | None], Any] | signal.Handlers


class _SignalError(BaseException):
    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class StopRequestedError(_SignalError, Exception):
    """A signal has come; raised between steps, where stopping is safe."""


class ImmediateStopError(_SignalError):
    """A signal has come outside the steps, or for the second time; raised anywhere."""


class StopRequest:
    """Records the first signal during its block; a second one raises `ImmediateStopError`.

    message: makes the message of the `StoppedError` that replaces a `StopRequestedError` at the end
        of the block, from the name of the signal.
    distributed: whether this process is one of several ranks.
    """

    def __init__(
        self, message: Callable[[str], str] | None = None, *, distributed: bool = False
    ) -> None:
        self._message = message
        self._distributed = distributed
        self.received: int | None = None
        """First signal that has come."""
        self._received_at = 0.0
        self._handlers = _handle_signals(self._on_signal)

    def __enter__(self) -> Self:
        self._handlers.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._handlers.__exit__(None, None, None)
        if isinstance(error, StopRequestedError) and self._message is not None:
            raise StoppedError(self._message(str(error)), error.signal_number) from error

    def check(self) -> None:
        """Raise if a signal has come. Call between steps.

        Raises:
            StopRequestedError: a signal has come.
        """
        if self.received is not None:
            raise StopRequestedError(self.received)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = number, now
        elif now - self._received_at > (
            RANK_DUPLICATE_SECONDS if self._distributed else DUPLICATE_SECONDS
        ):
            _stop_immediately(number, frame)


def raise_on_signal(*, ignore_later: bool = False) -> AbstractContextManager[None]:
    """Raise on a signal anywhere in the block, except inside a `StopRequest`.

    ignore_later: ignore signals after the block, for a process that ends with it.

    Raises:
        ImmediateStopError: a signal has come.
    """
    return _handle_signals(_stop_immediately, ignore_later=ignore_later)


def default_signal_handlers() -> AbstractContextManager[None]:
    """Let a signal kill the process, in a blocking call that runs no Python handlers."""
    return _handle_signals(signal.SIG_DFL)


@contextmanager
def _handle_signals(handler: Handler, *, ignore_later: bool = False) -> Iterator[None]:
    """Set a handler during the block; a no-op in a thread, where Python allows no handlers."""
    is_main = threading.current_thread() is threading.main_thread()
    numbers = [number for number in SIGNALS if is_main and not is_ignored(number)]
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, signal.SIG_IGN if ignore_later else old or signal.SIG_DFL)


def _stop_immediately(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        exit_on_signal(number)
    raise ImmediateStopError(number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
