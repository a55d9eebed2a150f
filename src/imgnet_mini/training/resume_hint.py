"""The commands that continue a run after an error, with what may avoid the error."""

import shlex

from imgnet_mini.config.run_config import ResolvedConfig, run_flags
from imgnet_mini.errors import (
    DataError,
    DivergedError,
    ImgnetMiniError,
    LostWorkerError,
    MemoryLimitError,
)
from imgnet_mini.training.compilation import flag_without_graphs
from imgnet_mini.training.device import micro_batches
from imgnet_mini.training.setup import Setup

_MAX_NAME_LENGTH = 56
"""Leaves room for an ending, of the 64 characters of a run name."""


def resume_command(config: ResolvedConfig, setup: Setup) -> str:
    """Return the command that continues a run, with as many processes."""
    return setup.distributed.command_line(f"resume{run_flags(config.run)}")


def resume_hint(error: ImgnetMiniError, config: ResolvedConfig, setup: Setup) -> str:
    """Return how to go on from the newest checkpoint: commands are lines of their own."""
    resume = resume_command(config, setup)
    if isinstance(error, DataError):
        return (
            "To go on from there, leave out all broken files with the first command; or repair "
            "or remove this one, and then use the second:\n"
            f"  {resume} --skip-bad\n  {resume} --allow-image-changes"
        )
    hint = f"To go on from there:\n  {resume}{_changes_against(error, config, setup)}"
    if isinstance(error, DivergedError) and setup.precision.name == "fp16":
        hint += (
            f"\nOr start another run in bf16, which does not overflow:\n  {_in_bf16(config, setup)}"
        )
    return hint


def _changes_against(error: ImgnetMiniError, config: ResolvedConfig, setup: Setup) -> str:
    """Return options that `resume` accepts and that may avoid the error, with a leading space."""
    if isinstance(error, DivergedError):
        return f" --max-lr {config.schedule.max_lr / 2:.2g} --replan"
    if isinstance(error, LostWorkerError):
        return f" --workers {config.data.workers // 2}"
    if isinstance(error, MemoryLimitError):
        number = micro_batches(config.data, setup.distributed.world_size)
        if number is not None:
            mode = flag_without_graphs(config.runtime)
            return f" --grad-accum-steps {number} --allow-world-size-change{mode}"
    return ""


def _in_bf16(config: ResolvedConfig, setup: Setup) -> str:
    settings = str(config.run.paths().config)
    name = f"{config.run.name[:_MAX_NAME_LENGTH]}-bf16"
    flags = shlex.join(["--config", settings, "--name", name, "--precision", "bf16"])
    return setup.distributed.command_line(f"train {flags}")
