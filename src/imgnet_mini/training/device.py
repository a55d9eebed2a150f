"""The device a command runs on, and errors of torch as messages with a cure."""

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from imgnet_mini.config.run_settings import RuntimeConfig
from imgnet_mini.data.folder_source import lost_worker_error
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.errors import ConfigError


def choose_device(
    runtime: RuntimeConfig, distributed: DistributedContext = SINGLE_PROCESS
) -> torch.device:
    """Return the device of the settings, or the best available one, set to its fastest kernels.

    With several ranks, each takes the GPU of its local rank.

    Raises:
        ConfigError: the device is not available.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if runtime.device == "auto":
        kind = next(name for name, is_available in available.items() if is_available)
    elif available[runtime.device]:
        kind = runtime.device
    else:
        present = ", ".join(name for name, is_available in available.items() if is_available)
        raise ConfigError(
            f"--device {runtime.device}: torch {torch.__version__} finds no such device; "
            f"it can use {present}. Leave --device out, or repair the driver or the torch build"
        )
    torch.use_deterministic_algorithms(runtime.deterministic)
    if kind == "cuda":
        if runtime.deterministic:  # read when cuBLAS is first used
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = not runtime.deterministic
        # Without AMP, TF32 is for speed; with it, only parts that need float32 are in float32.
        torch.backends.cudnn.allow_tf32 = not runtime.amp
        torch.set_float32_matmul_precision("highest" if runtime.amp else "high")
        if distributed.world_size > 1:
            return _local_gpu(distributed)
    return torch.device(kind)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 in float32, not TF32, and by kernels that are not chosen by their speed."""
    cudnn, matmul_precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    benchmark, allow_tf32 = cudnn.benchmark, cudnn.allow_tf32
    cudnn.benchmark = cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = benchmark, allow_tf32
        torch.set_float32_matmul_precision(matmul_precision)


def _local_gpu(distributed: DistributedContext) -> torch.device:
    count = torch.cuda.device_count()
    if distributed.local_world_size > count:
        raise ConfigError(
            f"torchrun started {distributed.local_world_size} processes on a machine with {count} "
            f"GPU(s): use --nproc-per-node {count}"
        )
    torch.cuda.set_device(distributed.local_rank)
    return torch.device("cuda", distributed.local_rank)


def describe_device(device: torch.device) -> str:
    """Return a description of the device, such as `NVIDIA GeForce RTX 4060 Ti (16 GB)`."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name} ({properties.total_memory / 2**30:.0f} GB)"
    if device.type == "mps":
        return f"Apple GPU ({platform.machine()})"
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


@contextmanager
def translate_torch_errors(batch_size: int) -> Iterator[None]:
    """Translate torch errors about memory, missing kernels and lost workers into advice.

    Raises:
        ConfigError: out of memory, or a kernel has no deterministic version on the device.
        WriteError: a worker process was killed.
    """
    advice = (
        f"out of memory at --batch-size {batch_size}: try --batch-size {max(1, batch_size // 2)}; "
        "or a larger --grad-accum-steps, such as 2, which splits the batch into micro-batches; "
        "or a smaller --img-size or --arch"
    )
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(advice) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):
            raise ConfigError(advice) from error
        if re.search("DataLoader worker .*(killed|exited)", str(error)):
            raise lost_worker_error() from error
        if "deterministic implementation" in str(error):
            kernel = str(error).split()[0]
            raise ConfigError(
                f"--deterministic: {kernel} has no deterministic kernel on this device; leave "
                "the flag out, or choose another --arch"
            ) from error
        raise
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            f"--batch-size {batch_size} is too small for this model at this --img-size: batch "
            "norm needs more than one value per channel; use 2 or more"
        ) from error
