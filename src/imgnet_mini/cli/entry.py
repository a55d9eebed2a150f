"""The command line as a whole: what goes for every command, and how each of them ends."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from imgnet_mini import __version__
from imgnet_mini.errors import ConfigError, ImgnetMiniError, RankError, StoppedError, WriteError
from imgnet_mini.utils.console import print_lines, show_error, show_stop
from imgnet_mini.utils.signals import ImmediateStopError, raise_on_signal
from imgnet_mini.utils.torchrun_env import (
    TorchrunEnv,
    is_distributed_from_env,
    is_main_process_from_env,
)

WITH_RANKS = ("find-lr", "train", "resume", "evaluate")
"""Commands that torchrun may start."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train ResNet-50 from scratch on ImageNet-Mini, or any folder of images, on one GPU.",
)


def main(args: list[str] | None = None, *, is_process: bool = False) -> None:
    """Run the command line; the package's own errors end as a message and an exit code.

    is_process: whether the process ends with it. One of several does so in here, and at once.
    """
    with _ending_at_once() if is_process and is_distributed_from_env() else nullcontext():
        _run(args, is_process)


def _run(args: list[str] | None, is_process: bool) -> None:
    # Torch's large tensors then live in large pages of memory, which the system hands out faster.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        with (
            raise_on_signal(ignore_later=is_process),
            _naming_files(),
            nullcontext() if is_main_process_from_env() else _silence(),
        ):
            app(args, prog_name="imgnet-mini")
    except ImmediateStopError as error:
        if is_main_process_from_env():
            show_stop(f"stopped immediately by {error}; saved files are intact")
        raise SystemExit(128 + error.signal_number) from error
    except StoppedError as error:
        if is_main_process_from_env():
            show_stop(str(error))
        raise SystemExit(error.exit_code) from error
    except ImgnetMiniError as error:
        if is_main_process_from_env() or isinstance(error, RankError):
            show_error("\n".join([str(error), *getattr(error, "__notes__", [])]))
        raise SystemExit(error.exit_code) from error


@contextmanager
def _ending_at_once() -> Iterator[None]:
    """End the process with the block, and leave Python no time to tear down what it holds.

    Torch would wait there, without a limit, for ranks that are gone or do not answer.
    """
    try:
        yield
    except SystemExit as error:
        _end(error.code if isinstance(error.code, int) else int(error.code is not None))
    except BaseException as error:  # a bug
        traceback.print_exception(error)
        _end(1)
    _end(0)


def _end(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


@contextmanager
def _naming_files() -> Iterator[None]:
    """The last resort for a file or folder that cannot be used, and that nobody has explained."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise WriteError(f"cannot use {error.filename}: {error.strerror or error}") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Only one of several processes prints: what is said inside this is not."""
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield


def _show_version(asked: bool) -> None:
    if asked:
        print_lines(f"imgnet-mini {__version__}")
        raise typer.Exit


@app.callback()
def _options_of_all(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    del version
    launch = TorchrunEnv.from_environment()
    if launch.world_size > 1 and ctx.invoked_subcommand not in WITH_RANKS:
        raise ConfigError(
            f"{ctx.invoked_subcommand} is work for one process, and torchrun has started "
            f"{launch.world_size}: call imgnet-mini {ctx.invoked_subcommand} by itself"
        )
