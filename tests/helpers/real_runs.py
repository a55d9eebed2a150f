"""Runs in real processes, to be killed and signalled; tests and the soak share them.

Each process is forked from a server that has imported everything already: it starts in
milliseconds, and is a process like any other to the signals it gets.
"""

import ctypes
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helpers.child_process import CHECKS, COMMAND, SAVING, ChildOrder, run_command
from helpers.processes import session_members

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    [
        "__main__",
        "tensorboard.backend.event_processing.event_accumulator",
        *(
            f"imgnet_mini.commands.{name}"
            for name in ("evaluate", "find_lr", "prepare", "report", "resume")
        ),
    ]
)


@dataclass
class RealRun:
    """The command line in a process, session and process group of its own.

    signal_at: after so many looks for signals it sends itself SIGTERM.
    slow_saves: seconds that each save takes longer, but for the first.
    read_seconds: how often it brings its losses to the host, which is when it may save.
    environment: variables to set in the process.
    obeys_modes: whether file modes hold for it though the tests are root's, who may do all.
    before: what to do in the process before its command; a function of a module.
    """

    folder: Path
    args: Sequence[object]
    signal_at: int = 0
    slow_saves: float = 0.0
    read_seconds: float = 1.0
    environment: dict[str, str] = field(default_factory=dict)
    obeys_modes: bool = False
    before: Callable[[], None] | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "terminal.log"
        self.counters = FORKED.RawArray(ctypes.c_long, 3)
        self.process = FORKED.Process(target=run_command, args=(self._order(),))
        self.process.start()
        self.began = time.monotonic()

    def _order(self) -> ChildOrder:
        return ChildOrder(
            folder=self.folder,
            log=self.log,
            args=[str(arg) for arg in self.args],
            counters=self.counters,
            signal_at=self.signal_at,
            slow_saves=self.slow_saves,
            read_seconds=self.read_seconds,
            environment=self.environment,
            obeys_modes=self.obeys_modes,
            before=self.before,
        )

    @property
    def checks(self) -> int:
        return int(self.counters[CHECKS])

    @property
    def is_in_command(self) -> bool:
        return bool(self.counters[COMMAND])

    @property
    def is_saving(self) -> bool:
        return bool(self.counters[SAVING])

    def kill_after(self, seconds: float) -> tuple[bool, bool]:
        """SIGKILL after a time since the start: whether it was alive, and inside a save."""
        self.process.join(max(0.0, self.began + seconds - time.monotonic()))
        alive = self.process.is_alive()
        if alive:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        return alive, alive and self.is_saving

    def wait_for(self, condition, *, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.is_alive(), self.log.read_text("utf-8")
            assert time.monotonic() < deadline, self.log.read_text("utf-8")
            time.sleep(0.01)

    def send(self, number: int, *, group: bool = False) -> None:
        (os.killpg if group else os.kill)(self.process.pid, number)

    def processes_left(self, *, seconds: float) -> list[int]:
        """Who is still in its session after so many seconds at the most."""
        deadline = time.monotonic() + seconds
        while (left := session_members(self.process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def wait(self, seconds: float = 60) -> int:
        """The exit code; a death by a signal counts as in a shell."""
        self.process.join(seconds)
        if self.process.is_alive():
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.join()
            raise AssertionError(f"still running after {seconds} s: {self.log.read_text('utf-8')}")
        code = self.process.exitcode
        return code if code >= 0 else 128 - code


def run(folder: Path, *args: object, signal_at: int = 0, read_seconds: float = 1.0) -> int:
    return RealRun(folder, args, signal_at, read_seconds=read_seconds).wait(300)


@dataclass
class Tally:
    """Kills that found the process alive, and those of them that hit a save."""

    kills: int = 0
    in_saves: int = 0


def kill_until_done(
    folder: Path,
    command: Sequence[object],
    generator: random.Random,
    seconds: float,
    *,
    most: int,
    read_seconds: float = 1.0,
) -> Tally:
    """Start a command, kill it after a random time up to `seconds`, start it again, to its end."""
    tally = Tally()
    while True:
        real = RealRun(folder, command, read_seconds=read_seconds)
        if tally.kills < most:
            alive, saving = real.kill_after(generator.uniform(0, seconds))
            tally.kills += alive
            tally.in_saves += saving
            if alive:
                continue
        code = real.wait(300)
        assert code == 0, real.log.read_text("utf-8")
        return tally
