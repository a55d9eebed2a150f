"""Errors of torch as messages with a cure."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from imgnet_mini.data.folder_source import lost_worker_error
from imgnet_mini.errors import ConfigError


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
