"""torch.compile with one static graph for each image size, and a note of the time it takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import nn

from imgnet_mini.utils.console import print_warning

_MAX_GRAPHS: Final = 128
"""Of one network, for each image size, in training and in evaluation; torch's own limit is 8."""

_WORTH_A_NOTE: Final = 1.0
"""Seconds."""


def compile_per_size(module: nn.Module) -> None:
    """Compile a module in place, with one graph for each input shape; its copies reuse them.

    By default, torch would replace the graph by one for any size when a second size comes, which
    lacks optimizations that depend on the size; and beyond its limit it would not compile at all.
    """
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, _MAX_GRAPHS)
    module.compile(dynamic=False)


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
