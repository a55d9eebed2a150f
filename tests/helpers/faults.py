"""Saves that fail, or are killed, at their n-th call to the operating system.

`failing_at` stands in for a kernel's tracer and needs none; `traced` uses the real one.
"""

import errno
import io
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from helpers.checkpoints import checkpoint_at, store_at
from helpers.real_runs import FORKED
from imgnet_mini.errors import WriteError

CALLS = ("open", "fsync", "replace", "link", "unlink", "chmod", "mkdir", "scandir")
"""Functions of `os` that a save calls."""

TRACED = "openat,write,fsync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,chmod,fchmod"
ERRORS = ("ENOSPC", "EIO", "EROFS", "EACCES")


class DiedError(BaseException):
    """Stands for the death of the process; only the test catches it."""


class Faults:
    """Counts calls; makes call number `first` fail, and all later ones unless `once`."""

    def __init__(self, first: int, error: OSError | DiedError, *, once: bool) -> None:
        self.calls = 0
        self._first = first
        self._error = error
        self._once = once

    def count(self) -> None:
        self.calls += 1
        if self.calls == self._first or (self.calls > self._first and not self._once):
            raise self._error


@contextmanager
def failing_at(first: int, error: OSError | DiedError, *, once: bool = False) -> Iterator[Faults]:
    faults = Faults(first, error, once=once)

    def counted(call):
        def attempt(*args, **settings):
            faults.count()
            return call(*args, **settings)

        return attempt

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, counted(getattr(os, name)))
        yield faults


def calls_of_a_save(folder: Path) -> int:
    """Return the number of calls of a save that keeps one earlier state and removes another."""
    store = store_at(folder, 10, 20)
    with failing_at(10**9, DiedError()) as faults:
        store.save(checkpoint_at(30))
    shutil.rmtree(folder)
    return faults.calls


def _save_when_told(folder: Path, ready, go) -> None:
    store = store_at(folder)
    store.load_latest()
    torch.save(checkpoint_at(30).to_dict(), io.BytesIO())  # so that the modules it needs are there
    ready.set()
    go.wait()
    try:
        store.save(checkpoint_at(30))
    except WriteError as error:
        os._exit(error.exit_code)
    os._exit(0)  # what Python does to end is not to be traced


def traced(folder: Path, *injections: str) -> tuple[int, list[str]]:
    """Run one save under strace with faults; return its exit code and its calls.

    injections: such as `write:signal=SIGKILL:when=3`. strace counts each kind of call by itself.
    """
    store_at(folder, 10, 20)
    ready, go = FORKED.Event(), FORKED.Event()
    process = FORKED.Process(target=_save_when_told, args=(folder, ready, go))
    process.start()
    assert ready.wait(60)
    log = folder / "strace.log"
    words = ["strace", "-f", "-p", str(process.pid), "-e", f"trace={TRACED}", "-o", str(log)]
    for injection in injections:
        words += ["-e", f"inject={injection}"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as tracer:
        status = Path(f"/proc/{process.pid}/status")
        deadline = time.monotonic() + 30
        while "TracerPid:\t0" in status.read_text() and time.monotonic() < deadline:
            time.sleep(0.005)
        go.set()
        process.join(60)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        tracer.wait(30)
    calls = re.findall(r"^\d+ +(\w+)\(.*$", log.read_text("utf-8", "replace"), re.MULTILINE)
    return process.exitcode or 0, calls


def fault_at(calls: list[str], place: int, fault: str) -> str:
    """Return an injection at one call of a save, counted from 0, for `traced`."""
    return f"{calls[place]}:{fault}:when={calls[: place + 1].count(calls[place])}"


def faults_from(calls: list[str], place: int, fault: str) -> list[str]:
    """Return injections at one call of a save and at all later ones."""
    return [f"{call}:{fault}:when={calls[:place].count(call) + 1}+" for call in sorted(set(calls))]


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
