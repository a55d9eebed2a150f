"""Real runs in processes of their own, to be killed for real; tests and the soak share them.

Each process is forked from a server that has imported everything already: it starts in
milliseconds, and is a process like any other to the signals it gets.
"""

import ctypes
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torchvision.models._api import register_model

from helpers.events import read_events
from imgnet_mini import cli
from imgnet_mini.checkpoint.store import CheckpointStore
from imgnet_mini.distributed import rank_sync
from imgnet_mini.distributed.rank_sync import RankSync
from imgnet_mini.training import setup
from imgnet_mini.utils.signals import StopRequest

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

SAVING, CHECKS, COMMAND = 0, 1, 2
"""Places in a run's counters: whether it is inside a save, how often it has looked for signals,
and whether its command has begun."""


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
        self.process = FORKED.Process(target=_run, args=(_Order(self),))
        self.process.start()
        self.began = time.monotonic()

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
        while (left := _session(self.process.pid)) and time.monotonic() < deadline:
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


def _session(leader: int) -> list[int]:
    """The living processes of a session, other than zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session = stat.read_text("utf-8").rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(stat.parent.name))
    return found


class _Order:
    """What the child is told."""

    def __init__(self, real: RealRun) -> None:
        self.folder, self.log = real.folder, real.log
        self.args = [str(arg) for arg in real.args]
        self.counters, self.signal_at = real.counters, real.signal_at
        self.slow_saves, self.read_seconds = real.slow_saves, real.read_seconds
        self.environment, self.obeys_modes = real.environment, real.obeys_modes
        self.before = real.before


def _run(order: _Order) -> None:
    os.setsid()
    os.chdir(order.folder)
    os.environ.update(order.environment)
    descriptor = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
    if order.obeys_modes and os.getuid() == 0:
        _obey_modes()
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # as at home, not as here
    rank_sync._SYNC_SECONDS = order.read_seconds
    _count_saves(order)
    _count_checks(order)
    _note_command(order)
    _add_plain_network()
    if order.before:
        order.before()
    try:
        cli.main(order.args, is_process=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _obey_modes() -> None:
    """Give up root's right to pass over file modes; the process stays root's otherwise (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    rights = (ctypes.c_uint32 * 6)()  # twice: effective, permitted, inheritable
    assert libc.capget(header, rights) == 0
    for kind in range(3):
        rights[kind] &= ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, rights) == 0


def _count_saves(order: _Order) -> None:
    write = CheckpointStore._write
    saves = 0

    def counted(*args):
        nonlocal saves
        saves += 1
        order.counters[SAVING] = 1
        if saves > 1:
            time.sleep(order.slow_saves)
        result = write(*args)
        order.counters[SAVING] = 0
        return result

    CheckpointStore._write = counted


def _count_checks(order: _Order) -> None:
    """Count the looks for signals: in each step, or where ranks look for them together."""

    def counting(look):
        def counted(*args):
            order.counters[CHECKS] += 1
            if order.counters[CHECKS] == order.signal_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return look(*args)

        return counted

    if order.environment:
        RankSync.sync = counting(RankSync.sync)
    else:
        StopRequest.check = counting(StopRequest.check)


def _add_plain_network() -> None:
    """A network that has no batch norm, and so does not care which images meet on a rank."""

    def plain(num_classes: int, weights: None = None) -> nn.Module:
        del weights
        body = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU()]
        return nn.Sequential(
            *body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, num_classes)
        )

    plain.__module__ = "torchvision.models.plain"
    register_model("plain")(plain)


def _note_command(order: _Order) -> None:
    choose = setup.open_splits

    def noted(*args, **settings):
        order.counters[COMMAND] = 1
        return choose(*args, **settings)

    setup.open_splits = noted


TIMED = ("seconds", "imgs_per_sec", "time", "started")
"""What no two runs have in common."""


def outcome(folder: Path, name: str) -> dict[str, object]:
    """All that a run has left but for its timings, to compare with another's."""
    checkpoints = folder / "checkpoints" / name
    state = _plain(torch.load(checkpoints / "checkpoint.pth", weights_only=True))
    best = _plain(torch.load(checkpoints / "best.pth", weights_only=True))
    for content in (state, best):
        content.pop("config")
        content.pop("best", None)  # the digest of a file that holds timings
    rows = (folder / "out" / name / "train_log.csv").read_text("utf-8").splitlines()
    events = read_events(folder / "runs" / name)
    return {
        "state": state,
        "best": best,
        "csv": [row.rsplit(",", 1)[0] for row in rows],
        "log": [
            line.split(" | ips")[0]
            for line in (folder / "out" / name / "logs.md").read_text("utf-8").splitlines()
        ],
        "events": {
            tag: [(step, 0.0 if tag.endswith("imgs_per_sec") else value) for step, value in values]
            for tag, values in events.scalars.items()
        },
        "pictures": events.pictures,
        "hparams": events.hparams,
    }


def _plain(value):
    """Tensors as their bytes, so that `==` compares bit by bit; without timings."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8)
        return str(value.dtype), tuple(value.shape), flat.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in TIMED}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def differences(ours, theirs, place="") -> list[str]:
    """Where two outcomes differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            found
            for key in ours.keys() | theirs.keys()
            for found in differences(ours.get(key), theirs.get(key), f"{place}.{key}")
        ]
    return [] if ours == theirs else [place]


def listed_digests(folder: Path, name: str) -> list[str]:
    manifest = json.loads((folder / "checkpoints" / name / "manifest.json").read_text("utf-8"))
    return [entry["sha256"] for entry in manifest["saved"]]
