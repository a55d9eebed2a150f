"""The application: options of all commands, error messages and exit codes."""

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from imgnet_mini import __version__
from imgnet_mini.cli.overview import add_commands
from imgnet_mini.errors import ConfigError, ImgnetMiniError, RankError, StoppedError, WriteError
from imgnet_mini.utils.console import print_lines, show_panel
from imgnet_mini.utils.signals import ImmediateStopError, raise_on_signal
from imgnet_mini.utils.torchrun_env import (
    TorchrunEnv,
    is_distributed_from_env,
    is_main_process_from_env,
)

_PROGRAM: Final = "imgnet-mini"

_COMPLETION_VARIABLE: Final = "_IMGNET_MINI_COMPLETE"
"""Set by the shell when it asks for completions."""

DISTRIBUTED_COMMANDS = ("find-lr", "train", "resume", "evaluate")
"""Commands that torchrun may start."""


def main(args: list[str] | None = None, *, is_process: bool = False) -> None:
    """Run the command line; errors of the package become a message and an exit code.

    is_process: the process ends afterwards; one rank of several ends without cleanup.
    """
    with _exit_immediately() if is_process and is_distributed_from_env() else nullcontext():
        _run(args, is_process)


def _run(args: list[str] | None, is_process: bool) -> None:
    # Large tensors in transparent huge pages: faster to allocate.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        with (
            raise_on_signal(ignore_later=is_process),
            _translate_os_errors(),
            nullcontext() if is_main_process_from_env() else _discard_output(),
        ):
            choose_app(sys.argv[1:] if args is None else args)(args, prog_name=_PROGRAM)
    except ImmediateStopError as error:
        if is_main_process_from_env():
            text = f"stopped immediately by {error}; saved files are intact"
            show_panel("Stopped", text, color="yellow")
        raise SystemExit(128 + error.signal_number) from error
    except ImgnetMiniError as error:
        if is_main_process_from_env() or isinstance(error, RankError):
            text = "\n".join([str(error), *getattr(error, "__notes__", [])])
            is_stop = isinstance(error, StoppedError)
            title, color = ("Stopped", "yellow") if is_stop else ("Error", "red")
            show_panel(title, text, color=color)
        raise SystemExit(error.exit_code) from error


@contextmanager
def _exit_immediately() -> Iterator[None]:
    """End the process after the block, skipping the interpreter's cleanup.

    During cleanup, torch would wait without a limit for ranks that exited or do not respond.
    """
    try:
        yield
    except SystemExit as error:
        _flush_and_exit(error.code if isinstance(error.code, int) else int(error.code is not None))
    except BaseException as error:  # a bug
        traceback.print_exception(error)
        _flush_and_exit(1)
    _flush_and_exit(0)


def _flush_and_exit(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


@contextmanager
def _translate_os_errors() -> Iterator[None]:
    """Turn an error about a file or folder into a message; a fallback for unhandled ones."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise WriteError(f"cannot use {error.filename}: {error.strerror or error}") from error


@contextmanager
def _discard_output() -> Iterator[None]:
    """Discard standard output and error: only the main process prints."""
    with (
        Path(os.devnull).open("w", encoding="utf-8") as devnull,
        redirect_stdout(devnull),
        redirect_stderr(devnull),
    ):
        yield


def _show_version(is_requested: bool) -> None:
    if is_requested:
        print_lines(f"imgnet-mini {__version__}")
        raise typer.Exit


def _common_options(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    del version
    torchrun = TorchrunEnv.from_environment()
    if torchrun.world_size > 1 and ctx.invoked_subcommand not in DISTRIBUTED_COMMANDS:
        raise ConfigError(
            f"{ctx.invoked_subcommand} runs in one process, and torchrun has started "
            f"{torchrun.world_size}: run imgnet-mini {ctx.invoked_subcommand} without torchrun"
        )


def _new_app() -> typer.Typer:
    return typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        callback=_common_options,
        help="Train ResNet-50 from scratch on ImageNet-Mini or any folder of images.",
    )


app = _new_app()
"""All commands, once `load_commands` has imported them."""


def load_commands() -> typer.Typer:
    """Return the app with all commands and their options."""
    # In the order of --help.
    from imgnet_mini.cli import images, training, results, trials  # noqa: F401, I001

    return app


def choose_app(args: Sequence[str]) -> typer.Typer:
    """Return the app with all commands, or where none is named, with their names only."""
    names_command = bool(args) and not args[0].startswith("-")
    if names_command or _COMPLETION_VARIABLE in os.environ:
        return load_commands()
    overview = _new_app()
    add_commands(overview)
    return overview
