"""Several ranks, started as torchrun would, or by torchrun itself."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch.distributed import TCPStore

from helpers.real_runs import RealRun


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RankProcesses:
    """The command line in several processes at once; all write to `terminal.log`.

    Their store is hosted by this process and so outlives them, as that of torchrun does.
    """

    def __init__(self, folder: Path, size: int, args: Sequence[object], **settings) -> None:
        """signal_rank: the rank that `signal_at` applies to, see RealRun. machines: to be on."""
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        port, signal_rank = self._store.port, settings.pop("signal_rank", 0)
        signal_at, machines = settings.pop("signal_at", 0), settings.pop("machines", 1)
        self.ranks = [
            RealRun(
                folder,
                args,
                environment=_environment(rank, size, port, size // machines),
                signal_at=signal_at if rank == signal_rank else 0,
                **settings,
            )
            for rank in range(size)
        ]
        self.log = self.ranks[0].log

    def wait(self, seconds: float = 120) -> list[int]:
        """Return the exit codes, ordered by rank."""
        return [rank.wait(seconds) for rank in self.ranks]


def _environment(rank: int, size: int, port: int, local_size: int) -> dict[str, str]:
    return {
        "RANK": f"{rank}",
        "LOCAL_RANK": f"{rank % local_size}",
        "WORLD_SIZE": f"{size}",
        "LOCAL_WORLD_SIZE": f"{local_size}",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": f"{port}",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def run_ranks(folder: Path, size: int, *args: object, **settings) -> list[int]:
    return RankProcesses(folder, size, args, **settings).wait()


def kill_ranks_until_done(
    folder: Path,
    command: Sequence[object],
    generator: random.Random,
    seconds: float,
    *,
    most: int,
) -> tuple[int, float]:
    """Kill one of two ranks after a random time up to `seconds`; restart both until they finish.

    As torchrun does, send SIGTERM to the other rank. Return the number of kills, and the longest
    time in seconds that the other rank took to end.
    """
    kills, slowest = 0, 0.0
    while True:
        ranks = RankProcesses(folder, 2, command, read_seconds=0)
        if kills < most:
            victim = generator.randrange(2)
            alive, _ = ranks.ranks[victim].kill_after(generator.uniform(0, seconds))
            if alive:
                began = time.monotonic()
                with suppress(ProcessLookupError):
                    ranks.ranks[1 - victim].send(signal.SIGTERM)
                ranks.ranks[1 - victim].wait(60)
                slowest, kills = max(slowest, time.monotonic() - began), kills + 1
                continue
        assert ranks.wait() == [0, 0], ranks.log.read_text("utf-8")
        return kills, slowest


@dataclass
class Torchrun:
    """torchrun in a session of its own; its ranks have their own sessions."""

    folder: Path
    launch: Sequence[object]
    args: Sequence[object]

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "terminal.log"
        words = [*self.launch, "-m", "imgnet_mini", *self.args]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *map(str, words)],
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.log.read_text("utf-8")

    def wait_for_text(self, text: str, *, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.text:
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)

    def rank_pids(self) -> list[int]:
        """Return the process ids, ordered by rank."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
        ranks = {}
        for child in map(int, children):
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            rank = [v.partition(b"=")[2] for v in variables if v.startswith(b"RANK=")]
            if rank:
                ranks[int(rank[0])] = child
        return [ranks[rank] for rank in sorted(ranks)]

    def wait(self, seconds: float = 120) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            self.end()
            raise AssertionError(f"still running after {seconds} s: {self.text}") from error

    def end(self) -> None:
        """Kill torchrun and its ranks."""
        for pid in [*self.rank_pids(), self.process.pid] if self.process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
