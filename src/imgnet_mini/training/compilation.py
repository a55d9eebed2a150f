"""torch.compile with one static graph for each image size, and a note of the time it takes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import nn

from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.config.run_settings import RuntimeConfig
from imgnet_mini.errors import ConfigError
from imgnet_mini.utils.console import print_warning

_MAX_GRAPHS: Final = 128
"""Of one network, for each image size, in training and in evaluation; torch's own limit is 8."""

_WORTH_A_NOTE: Final = 1.0
"""Seconds."""


_WITH_CUDA_GRAPHS: Final = ("reduce-overhead", "max-autotune")


def choose_compile_mode(runtime: RuntimeConfig) -> str | None:
    """Return the mode of torch.compile; None: do not compile."""
    return runtime.compile_mode if runtime.compile else None


def uses_cuda_graphs(runtime: RuntimeConfig) -> bool:
    """Return whether the network is compiled to CUDA graphs on a GPU."""
    return choose_compile_mode(runtime) in _WITH_CUDA_GRAPHS


def flag_without_graphs(runtime: RuntimeConfig) -> str:
    """Return the flag that micro-batches need besides their own, with a leading space; or ""."""
    return " --compile-mode default" if uses_cuda_graphs(runtime) else ""


def check_compile_mode(runtime: RuntimeConfig, data: DataConfig, world_size: int) -> None:
    """Refuse CUDA graphs where something keeps the gradients that they write.

    The memory of a graph's results is used again when the next forward pass starts.

    Raises:
        ConfigError: several micro-batches or processes, with a mode that uses CUDA graphs.
    """
    if not uses_cuda_graphs(runtime):
        return
    flag = f"--compile-mode {runtime.compile_mode}"
    if data.grad_accum_steps > 1:
        raise ConfigError(
            f"{flag} uses CUDA graphs, which overwrite the gradients of the micro-batch before: "
            "use --grad-accum-steps 1 or --compile-mode default"
        )
    if world_size > 1:
        raise ConfigError(
            f"{flag} uses CUDA graphs, which are for one process, and there are {world_size}: use "
            "--compile-mode default"
        )


def compile_per_size(module: nn.Module, mode: str | None) -> Callable[[], None]:
    """Compile a module in place, with one graph for each input shape; its copies reuse them.

    Returns a function to call before each training step: it tells CUDA graphs that a step begins,
    also after one that failed between its two passes.

    mode: None: do not compile.

    By default, torch would replace the graph by one for any size when a second size comes, which
    lacks optimizations that depend on the size; and beyond its limit it would not compile at all.
    """
    if mode is None:
        return lambda: None
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, _MAX_GRAPHS)
    module.compile(dynamic=False, mode=mode)
    return torch.compiler.cudagraph_mark_step_begin if mode in _WITH_CUDA_GRAPHS else lambda: None


@contextmanager
def report_compilation() -> Iterator[None]:
    """Print the seconds of each compilation during the block."""
    handler = torch._dynamo.callback.callback_handler
    started = 0.0

    def start(_: object) -> None:
        nonlocal started
        started = time.perf_counter()

    def end(_: object) -> None:
        seconds = time.perf_counter() - started
        if seconds > _WORTH_A_NOTE:
            print_warning(f"Note: compiled in {seconds:.0f} s, once for each image size")

    handler.register_start_callback(start)
    handler.register_end_callback(end)
    try:
        yield
    finally:
        handler.remove_start_callback(start)
        handler.remove_end_callback(end)
