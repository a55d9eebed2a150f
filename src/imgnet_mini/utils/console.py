"""Console output: results on standard output, warnings and errors on standard error."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import IO, Literal

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from imgnet_mini.errors import WriteError

MAX_LISTED = 10
"""Names in a message before the rest is counted."""


class _Console(Console):
    """A console that raises on a broken pipe; rich would end the process."""

    def on_broken_pipe(self) -> None:
        """Raise the error that rich is handling."""
        raise  # noqa: PLE0704 - called in an except block


_require_stdout: ContextVar[bool] = ContextVar("require_stdout", default=True)
_is_silent: ContextVar[bool] = ContextVar("is_silent", default=False)


@contextmanager
def silence() -> Iterator[None]:
    """Print no lines, tables or warnings in the block: of several ranks, only the main one does."""
    token = _is_silent.set(True)
    try:
        yield
    finally:
        _is_silent.reset(token)


@contextmanager
def ignore_closed_stdout() -> Iterator[None]:
    """Continue the block silently if standard output cannot be written: full, or a closed pipe."""
    token = _require_stdout.set(False)
    try:
        yield
    finally:
        _require_stdout.reset(token)


def print_lines(*lines: str) -> None:
    """Print lines to standard output, without markup or wrapping.

    Raises:
        WriteError: standard output cannot be written.
    """
    _print(*map(escape_control_chars, lines), markup=False, emoji=False, soft_wrap=True)


def print_warning(*lines: str) -> None:
    """Print lines to standard error, without markup or wrapping."""
    if _is_silent.get():
        return
    console = Console(stderr=True, highlight=False)
    with suppress(OSError):
        for line in lines:
            console.print(escape_control_chars(line), markup=False, emoji=False, soft_wrap=True)


def write_stdout(text: str) -> None:
    """Write text for another program to standard output; file names keep their bytes.

    On a terminal, control characters are escaped.

    Raises:
        WriteError: standard output cannot be written.
    """
    if sys.stdout.isatty():
        print_lines(text.removesuffix("\n"))
        return
    try:
        with _translate_stdout_errors():
            sys.stdout.flush()
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
            sys.stdout.buffer.flush()
    except WriteError as error:
        if isinstance(error.__cause__, BrokenPipeError):  # such as `| head`
            raise SystemExit(1) from error
        raise


def _print(*parts: RenderableType, **style: bool) -> None:
    if _is_silent.get():
        return
    console = _Console(highlight=False)
    with _translate_stdout_errors():
        for part in parts:
            console.print(part, **style)  # type: ignore[arg-type]


@contextmanager
def _translate_stdout_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _redirect_to_devnull(sys.stdout)
        if _require_stdout.get():
            reason = error.strerror or error
            raise WriteError(f"cannot write to standard output: {reason}") from error


def _redirect_to_devnull(stream: IO[str]) -> None:
    """Discard later output, and what Python has buffered: it would fail again at exit."""
    with suppress(OSError, ValueError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
        os.close(devnull)


def format_bytes(count: int) -> str:
    """Format a number of bytes, such as `6.8 GB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def show_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table; columns of numbers are right-aligned."""
    table = Table(title=Text(escape_control_chars(title)), title_justify="left")
    for index, name in enumerate(header):
        is_text = not any(row[index][:1].isdigit() for row in rows)
        justify: Literal["left", "right"] = "left" if is_text else "right"
        table.add_column(Text(escape_control_chars(name)), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(escape_control_chars(cell)) for cell in row))
    _print(table)


_COMMAND = re.compile(r"^  (?:imgnet-mini|torchrun|pip) .*$", re.MULTILINE)
"""A line of a message to paste into a shell."""


def show_panel(title: str, message: str, *, color: str) -> None:
    """Print a framed message to standard error, and its commands below the frame, to be pasted."""
    message = escape_control_chars(message)
    text = re.sub(r"\n+", "\n", _COMMAND.sub("", message)).strip("\n")
    panel = Panel(Text(text), title=title, title_align="left", border_style=color)
    try:
        console = _Console(stderr=True, highlight=False)
        console.print(panel)
        for command in _COMMAND.findall(message):
            console.print(Text(command), soft_wrap=True)
    except OSError:  # the exit code remains
        _redirect_to_devnull(sys.stderr)


def escape_control_chars(text: str) -> str:
    r"""Escape control characters, such as `\x1b`, and others that are not printable; keep `\n`."""
    return "".join(
        char if char == "\n" or char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def escape_line(text: str) -> str:
    r"""Escape control characters including `\n`, for a name in a list, a table or a picture."""
    return escape_control_chars(text).replace("\n", r"\n")


def list_lines(names: Sequence[str], *, most: int = MAX_LISTED) -> str:
    """Return the first names or problems on one line each, and the number of further ones."""
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return "\n".join(f"  {escape_line(name)}" for name in [*names[:most], *more])


def join_names(names: Sequence[str]) -> str:
    """Return the first names, and the number of further ones."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return escape_line(", ".join(names[:MAX_LISTED])) + more
