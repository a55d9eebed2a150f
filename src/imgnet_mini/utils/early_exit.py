"""The end of a process that a signal asks for while little of it is there yet.

This is needed before anything else is imported, and so imports next to nothing.
"""

import os
import signal
from types import FrameType
from typing import NoReturn


def exit_on_signal(number: int, _frame: FrameType | None = None) -> NoReturn:
    """Handle a signal: one line of the rank that speaks, and the exit code that belongs to it.

    While modules are imported, an exception would not do: numpy and torch swallow any, or turn it
    into one of their own.
    """
    try:
        if os.environ.get("RANK", "0") == "0":
            name = signal.Signals(number).name
            os.write(2, f"Stopped at once by {name}; what had been saved is whole\n".encode())
    finally:
        os._exit(128 + number)
