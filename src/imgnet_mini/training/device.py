"""The device a command runs on."""

import os
import platform

import torch

from imgnet_mini.config.settings import RuntimeConfig
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
        torch.set_float32_matmul_precision("high")
        if distributed.world_size > 1:
            return _local_gpu(distributed)
    return torch.device(kind)


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
