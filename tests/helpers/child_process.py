"""The command line inside the process of a RealRun: counted, slowed down, and sent signals."""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models._api import register_model

from imgnet_mini import cli
from imgnet_mini.checkpoint.store import CheckpointStore
from imgnet_mini.distributed import rank_sync
from imgnet_mini.distributed.rank_sync import RankSync
from imgnet_mini.training import setup
from imgnet_mini.utils.signals import StopRequest

SAVING, CHECKS, COMMAND = 0, 1, 2
"""Places in the counters: whether it is inside a save, how often it has looked for signals, and
whether its command has begun."""


@dataclass
class ChildOrder:
    """Settings of a RealRun for its process; see there."""

    folder: Path
    log: Path
    args: Sequence[str]
    counters: Any
    signal_at: int
    slow_saves: float
    read_seconds: float
    environment: dict[str, str]
    obeys_modes: bool
    before: Callable[[], None] | None


def run_command(order: ChildOrder) -> None:
    """Run the command line in a session of its own, with its output in `order.log`."""
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
    _add_small_networks()
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


def _count_saves(order: ChildOrder) -> None:
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


def _count_checks(order: ChildOrder) -> None:
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


def _add_small_networks() -> None:
    """Two networks whose training is well-conditioned: CPUs differ in the last digits only.

    `plain` has no batch norm, and so does not care which images meet on a rank. The batch norms of
    `normed` see 49 pixels or more of each image; those of a large network see one of a small image.
    """
    for name, norm in (("plain", nn.Identity), ("normed", nn.BatchNorm2d)):
        register_model(name)(_small_network(norm))


def _small_network(norm: Callable[[int], nn.Module]) -> Callable[..., nn.Module]:
    def build(num_classes: int, weights: None = None) -> nn.Module:
        del weights
        body = [nn.Conv2d(3, 8, 3, 2), norm(8), nn.ReLU()]
        body += [nn.Conv2d(8, 16, 3, 2), norm(16), nn.ReLU()]
        return nn.Sequential(
            *body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, num_classes)
        )

    build.__module__ = "torchvision.models.small"
    return build


def _note_command(order: ChildOrder) -> None:
    choose = setup.open_splits

    def noted(*args, **settings):
        order.counters[COMMAND] = 1
        return choose(*args, **settings)

    setup.open_splits = noted
