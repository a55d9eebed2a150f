"""Living processes of the system, read from /proc; zombies do not count."""

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def session_members(leader: int) -> list[int]:
    """Return the processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, session = _state_and_session(stat)
            if session == leader and state != "Z":
                found.append(int(stat.parent.name))
    return found


def are_gone(pids: Iterable[int], *, seconds: float) -> bool:
    """Wait up to some seconds for processes to end."""
    pids = list(pids)
    deadline = time.monotonic() + seconds
    while any(map(is_alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_alive(pid: int) -> bool:
    try:
        return _state_and_session(Path(f"/proc/{pid}/stat"))[0] != "Z"
    except OSError:
        return False


def _state_and_session(stat: Path) -> tuple[str, int]:
    state, _, _, session = stat.read_text("utf-8").rpartition(")")[2].split()[:4]
    return state, int(session)
