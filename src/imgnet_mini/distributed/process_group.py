"""How the processes that torchrun starts find one another, and how they end.

What fails on one rank ends all of them, with one message.
"""

import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]  # they are there

from imgnet_mini.config.settings import RuntimeConfig
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext, Store
from imgnet_mini.errors import ImgnetMiniError, LostRankError, RankError, StoppedError
from imgnet_mini.utils.signals import default_signal_handlers
from imgnet_mini.utils.torchrun_env import TorchrunEnv

_MEETING: Final = "imgnet-mini"
"""Key of the store."""

_MEET_SECONDS: Final = 300
_POLL_SECONDS: Final = 0.5
_GRACE_SECONDS: Final = 30
"""What torchrun leaves its processes between SIGTERM and SIGKILL."""


@contextmanager
def init_distributed(runtime: RuntimeConfig) -> Iterator[DistributedContext]:
    """Link this process to the others that torchrun has started, if there are any.

    Raises:
        RankError: something that a user can cause and cure has failed, on this rank first.
        LostRankError: another rank is gone, or does not answer.
        SystemExit: the same, where another rank says why.
    """
    launch = TorchrunEnv.from_environment()
    if launch.world_size == 1:
        yield SINGLE_PROCESS
        return
    with _ending_with_parent():
        try:
            distributed = _link(runtime, launch)
        except RuntimeError as error:
            raise _lost(error, runtime.dist_timeout) or error from error
        with _failing_together(distributed, runtime):
            yield distributed
        dist.destroy_process_group()


def _link(runtime: RuntimeConfig, launch: TorchrunEnv) -> DistributedContext:
    on_gpu = runtime.device in ("auto", "cuda") and torch.cuda.is_available()
    store = _reach_store()
    store = PrefixStore(f"imgnet-mini {_meet(store, launch)}", store)
    with default_signal_handlers():  # torch waits here for a rank that is killed meanwhile
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            timeout=timedelta(seconds=runtime.dist_timeout),
            store=store,
            rank=launch.rank,
            world_size=launch.world_size,
        )
    return DistributedContext(launch, store)


def _reach_store() -> Any:
    """The store that torchrun has told of.

    Raises:
        LostRankError: it cannot be reached.
    """
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=_MEET_SECONDS)))
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise LostRankError(
            f"the processes cannot meet at {address}: {str(error).splitlines()[0]}"
        ) from error
    return store


def _meet(store: Store, launch: TorchrunEnv) -> str:
    """Wait for all ranks; return a name for their meeting that no earlier one had.

    torchrun keeps its store when it starts its processes anew, and so the addresses of those that
    are gone. Rank 0 makes up a name; the meeting is this one where each finds itself on its list.

    Raises:
        LostRankError: not all have come in time.
    """
    me, came = uuid4().hex, dict[int, str]()
    deadline = time.monotonic() + _MEET_SECONDS
    while time.monotonic() < deadline:
        if launch.is_main_process:
            store.set(_MEETING, me)
            for rank in range(1, launch.world_size):
                if store.check([f"{me} {rank}"]):
                    came[rank] = store.get(f"{me} {rank}").decode()
            if len(came) == launch.world_size - 1:
                store.set(f"{me} all", " ".join(came.values()))
                return me
        elif store.check([_MEETING]):
            name = store.get(_MEETING).decode()
            store.set(f"{name} {launch.rank}", me)
            if store.check([f"{name} all"]) and me in store.get(f"{name} all").decode():
                return name
        time.sleep(_POLL_SECONDS / 10)
    raise LostRankError(
        f"rank {launch.rank} of {launch.world_size} has waited {_MEET_SECONDS} s for the others: "
        "start all machines, with the same --nnodes and --rdzv-endpoint"
    )


@contextmanager
def _failing_together(distributed: DistributedContext, runtime: RuntimeConfig) -> Iterator[None]:
    try:
        yield
    except StoppedError:  # all ranks have agreed on it
        raise
    except Exception as error:
        said = _said_once(distributed, _lost(error, runtime.dist_timeout) or error)
        if said is error:
            raise
        raise said from error


def _said_once(distributed: DistributedContext, error: Exception) -> BaseException:
    """What a rank ends with, so that one of them alone says why. A bug keeps its traceback."""
    reports = distributed.claim_failure()
    if not isinstance(error, ImgnetMiniError) or (reports and distributed.is_main_process):
        return error
    if not reports:
        return SystemExit(error.exit_code)
    place = f"rank {distributed.rank} of {distributed.world_size}, on {platform.node()}"
    return RankError(f"{place}: {error}", error.exit_code)


def _lost(error: Exception, seconds: float) -> LostRankError | None:
    """What an error of the link between ranks means; None for any other."""
    if not isinstance(error, RuntimeError):
        return None
    text = str(error)
    safe = "What had been saved is whole: the same command with train --resume goes on from there"
    if "imed out" in text or "timeout" in text.lower():
        return LostRankError(
            f"no answer from another process for {seconds:g} s (--dist-timeout). {safe}"
        )
    if isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text:
        return LostRankError(f"another process of this run has ended without a word. {safe}")
    return None


@contextmanager
def _ending_with_parent() -> Iterator[None]:
    """Stop as by SIGTERM once torchrun is gone: without it, nobody would end the ranks."""
    parent, over = os.getppid(), threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_SECONDS):
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                if not over.wait(_GRACE_SECONDS):
                    os._exit(128 + signal.SIGTERM)
                return

    threading.Thread(target=watch, name="imgnet-mini-parent", daemon=True).start()
    try:
        yield
    finally:
        over.set()
