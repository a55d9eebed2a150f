"""Exit on a signal during startup. Imported before all else, it imports little itself."""

import os
import signal
from types import FrameType
from typing import NoReturn


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
