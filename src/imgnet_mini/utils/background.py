"""Work of a command in a thread of its own."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self


class BackgroundThread:
    """Runs one function at a time; a second one waits for the first.

    At the end of its block it waits too. If a signal ends the block immediately, it calls `cancel`
    before.
    """

    def __init__(self, name: str, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._running: Future[None] | None = None

    def start(self, function: Callable[[], None]) -> None:
        """Start a function; raise the error of the one before, if it failed."""
        self.wait()
        self._running = self._pool.submit(function)

    def check(self) -> None:
        """Raise the error of a function that has failed; do not wait."""
        if self._running is not None and self._running.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the running function, and raise its error if it fails."""
        running = self._running
        if running is None:
            return
        try:
            running.result()
        finally:
            if running.done():  # and not interrupted by a signal
                self._running = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            self._cancel()
        try:
            if error is None:
                self.wait()
            elif self._running is not None:
                wait([self._running])
                failure = self._running.exception()
                if isinstance(failure, Exception):
                    error.add_note(str(failure))
        finally:
            self._pool.shutdown(wait=False)
