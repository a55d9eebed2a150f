"""Exit on a signal during startup. Imported before all else, it imports little itself."""

import os
import signal
import sys
import time
from types import FrameType
from typing import Final, NoReturn

SIGNALS: Final = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGBREAK")
    if hasattr(signal, name)
)
"""Signals that end a command. A closed terminal sends SIGHUP, job schedulers send SIGUSR1, submitit
sends SIGUSR2, and the console of Windows sends SIGBREAK."""


def is_ignored(number: signal.Signals) -> bool:
    """Return whether a signal must stay ignored: `nohup` ignores SIGHUP."""
    return number.name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN


def exit_on_signals() -> None:
    """Let signals exit the process, until other handlers are set."""
    for number in SIGNALS:
        if not is_ignored(number):
            signal.signal(number, exit_on_signal)
    if sys.platform == "win32":
        _handle_closing_console()


def exit_on_signal(number: int, _frame: FrameType | None = None) -> NoReturn:
    """Exit with the code of the signal; rank 0 prints a line.

    An exception would not do while modules are imported: numpy and torch swallow or replace it.
    """
    try:
        if os.environ.get("RANK", "0") == "0":
            name = signal.Signals(number).name
            os.write(2, f"Stopped immediately by {name}; saved files are intact\n".encode())
    finally:
        os._exit(128 + number)


if sys.platform == "win32":
    import ctypes

    _CLOSING = (2, 5, 6)  # CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT
    _SECONDS = 60  # the system allows 5 to 20

    @ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint32)
    def _on_closing_console(event: int) -> int:
        """Send SIGBREAK; Windows ends the process as soon as this returns."""
        if event not in _CLOSING:
            return 0
        signal.raise_signal(signal.SIGBREAK)
        time.sleep(_SECONDS)
        return 1

    def _handle_closing_console() -> None:
        ctypes.windll.kernel32.SetConsoleCtrlHandler(_on_closing_console, 1)
