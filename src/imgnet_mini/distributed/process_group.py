"""Process group of the ranks that torchrun starts: rendezvous, shared failure, shutdown.

An error on one rank ends all of them, and exactly one rank reports it.
"""

import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]  # untyped

from imgnet_mini import __version__
from imgnet_mini.config.run_settings import RuntimeConfig
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.errors import (
    ConfigError,
    ImgnetMiniError,
    LostRankError,
    RankError,
    StoppedError,
)
from imgnet_mini.utils.signals import default_signal_handlers
from imgnet_mini.utils.torchrun_env import TorchrunEnv

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store  # the typed name of torch.distributed.Store

_PACKAGES: Final = ("torchvision", "pillow", "simplejpeg")
"""Packages that decide the results, with imgnet-mini and torch."""

_RENDEZVOUS_KEY: Final = "imgnet-mini"
_RENDEZVOUS_SECONDS: Final = 300
_POLL_SECONDS: Final = 0.5
_KILL_SECONDS: Final = 30
"""Time that torchrun leaves its processes between SIGTERM and SIGKILL."""


@contextmanager
def init_distributed(runtime: RuntimeConfig) -> Iterator[DistributedContext]:
    """Join the process group of this run; without one, yield `SINGLE_PROCESS`.

    A process group that is initialized already is used and not destroyed. Else one is created
    from the variables that torchrun sets, and destroyed at the end of the block.

    NCCL is used if CUDA is available and chosen, else gloo alone. An existing group keeps its own
    timeout.

    Raises:
        RankError: an error that a user can fix, which this rank is the first to report.
        LostRankError: another rank has exited or does not answer.
        ConfigError: the existing process group has no backend for CPU tensors, or the machines have
            different versions of a package that decides the results.
        SystemExit: another rank reports the error.
    """
    if dist.is_available() and dist.is_initialized():
        distributed = _use_existing_group()
        with _fail_together(distributed, timeout=None):
            _check_same_versions(distributed)
            yield distributed
        return
    env = TorchrunEnv.from_environment()
    if env.world_size == 1:
        yield SINGLE_PROCESS
        return
    with _stop_with_parent():
        try:
            distributed = _create_group(env, runtime)
        except RuntimeError as error:
            raise _to_lost_rank_error(error, runtime.dist_timeout) or error from error
        with _fail_together(distributed, runtime.dist_timeout):
            _check_same_versions(distributed)
            yield distributed
        dist.destroy_process_group()


def _use_existing_group() -> DistributedContext:
    if dist.get_world_size() == 1:
        return SINGLE_PROCESS
    backends = dist.get_backend_config()
    if "cpu:" not in backends:
        raise ConfigError(
            f"the initialized process group has no backend for CPU tensors ({backends}): "
            'initialize it with backend="cpu:gloo,cuda:nccl"'
        )
    group = cast(dist.ProcessGroup, dist.group.WORLD)
    prefix = [uuid4().hex]  # the store may hold keys of an earlier run in these processes
    dist.broadcast_object_list(prefix)
    store = PrefixStore(f"imgnet-mini {prefix[0]}", group.get_group_store())
    return DistributedContext(_env_of_existing_group(), store)


def _env_of_existing_group() -> TorchrunEnv:
    """Return local ranks as torchrun set them, or count the ranks of each host."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    env = TorchrunEnv.from_environment()
    hosts: list[Any] = [None] * world_size
    dist.all_gather_object(hosts, (platform.node(), env.rank == rank, env.world_size))
    if all(matches and size == world_size for _, matches, size in hosts):
        return env
    names = [name for name, _, _ in hosts]
    host = names[rank]
    return TorchrunEnv(rank, world_size, names[:rank].count(host), names.count(host))


def _create_group(env: TorchrunEnv, runtime: RuntimeConfig) -> DistributedContext:
    use_cuda = runtime.device in ("auto", "cuda") and torch.cuda.is_available()
    _raise_file_limit()
    timeout = timedelta(seconds=runtime.dist_timeout)
    store = _connect_store()
    store = PrefixStore(f"imgnet-mini {_agree_on_prefix(store, env)}", store)
    with default_signal_handlers():  # torch blocks here if a rank is killed meanwhile
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if use_cuda else "gloo",
            timeout=timeout,
            store=store,
            rank=env.rank,
            world_size=env.world_size,
        )
    return DistributedContext(env, store, timeout=timeout)


def _raise_file_limit() -> None:
    """Allow as many open files as the system does: gloo connects each rank to every other one."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has a lower limit than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _check_same_versions(distributed: DistributedContext) -> None:
    own = {"imgnet-mini": __version__, "torch": str(torch.__version__)}
    own |= {name: version(name) for name in _PACKAGES}
    ranks = distributed.all_gather((platform.node(), own))
    for rank, (node, versions) in enumerate(ranks):
        first_node, first = ranks[0]
        different = [name for name in first if versions[name] != first[name]]
        if different:
            here, there = (
                ", ".join(f"{name} {one[name]}" for name in different) for one in (first, versions)
            )
            raise ConfigError(
                f"the ranks have different versions: {here} on {first_node} (rank 0), {there} on "
                f"{node} (rank {rank}). Install the same ones on all machines"
            )


def _connect_store() -> "Store":
    try:
        timeout = timedelta(seconds=_RENDEZVOUS_SECONDS)
        store: Store = next(rendezvous("env://", timeout=timeout))[0]
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise LostRankError(
            f"cannot connect to the store of torchrun at {address}: {str(error).splitlines()[0]}. "
            "Check that the address is reachable from every machine (--rdzv-endpoint)"
        ) from error
    return store


def _agree_on_prefix(store: "Store", env: TorchrunEnv) -> str:
    """Wait for all ranks; return a key prefix that no earlier start of them has used.

    torchrun keeps its store when it restarts its processes, with the addresses of those that are
    gone. Rank 0 therefore proposes a new prefix; each rank accepts it once rank 0 lists it as
    present.

    Raises:
        LostRankError: a rank is missing after the timeout.
    """
    own_id, present = uuid4().hex, dict[int, str]()
    deadline = time.monotonic() + _RENDEZVOUS_SECONDS
    while time.monotonic() < deadline:
        if env.is_main_process:
            store.set(_RENDEZVOUS_KEY, own_id)
            for rank in range(1, env.world_size):
                if store.check([f"{own_id} {rank}"]):
                    present[rank] = store.get(f"{own_id} {rank}").decode()
            if len(present) == env.world_size - 1:
                store.set(f"{own_id} all", " ".join(present.values()))
                return own_id
        elif store.check([_RENDEZVOUS_KEY]):
            prefix = store.get(_RENDEZVOUS_KEY).decode()
            store.set(f"{prefix} {env.rank}", own_id)
            if store.check([f"{prefix} all"]) and own_id in store.get(f"{prefix} all").decode():
                return prefix
        time.sleep(_POLL_SECONDS / 10)
    raise LostRankError(
        f"rank {env.rank} of {env.world_size} has waited {_RENDEZVOUS_SECONDS} s for the other "
        "ranks: start torchrun on all machines, with the same --nnodes and --rdzv-endpoint"
    )


@contextmanager
def _fail_together(distributed: DistributedContext, timeout: float | None) -> Iterator[None]:
    """Let one rank report an error of the block. A `StoppedError` is raised on all ranks alike."""
    try:
        yield
    except StoppedError:
        raise
    except Exception as error:
        known = _to_lost_rank_error(error, timeout) or error
        replacement = _error_of_this_rank(distributed, known)
        if replacement is error:
            raise
        raise replacement from error


def _error_of_this_rank(distributed: DistributedContext, error: Exception) -> BaseException:
    """Return the error to raise here, so that one rank reports it. A bug keeps its traceback."""
    reports = distributed.claim_error_report()
    if not isinstance(error, ImgnetMiniError) or (reports and distributed.is_main_process):
        return error
    if not reports:
        return SystemExit(error.exit_code)
    rank = f"rank {distributed.rank} of {distributed.world_size}, on {platform.node()}"
    return RankError(f"{rank}: {error}", error.exit_code)


def _to_lost_rank_error(error: Exception, timeout: float | None) -> LostRankError | None:
    """Translate an error of torch.distributed; return None for any other error."""
    if not isinstance(error, RuntimeError):
        return None
    text = str(error)
    cure = "Saved checkpoints are intact: continue with the same command and train --resume"
    if "imed out" in text or "timeout" in text.lower():
        limit = "" if timeout is None else f" for {timeout:g} s (--dist-timeout)"
        return LostRankError(f"no answer from another rank{limit}. {cure}")
    if isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text:
        return LostRankError(f"another rank exited unexpectedly. {cure}")
    return None


@contextmanager
def _stop_with_parent() -> Iterator[None]:
    """Send this process SIGTERM once torchrun is gone: nothing else would end the ranks."""
    parent, done = os.getppid(), threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_SECONDS):
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                if not done.wait(_KILL_SECONDS):
                    os._exit(128 + signal.SIGTERM)
                return

    threading.Thread(target=watch, name="imgnet-mini-parent", daemon=True).start()
    try:
        yield
    finally:
        done.set()
