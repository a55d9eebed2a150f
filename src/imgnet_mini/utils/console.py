"""The two streams a user reads: results on standard output, errors on standard error."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import IO, Literal

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from imgnet_mini.errors import WriteError


class _Stream(Console):
    """A stream that is cut off ends no process, as rich would have it."""

    def on_broken_pipe(self) -> None:
        """Let it be an error like another."""
        raise  # noqa: PLE0704 - rich calls this where it has caught one


_must_be_heard: ContextVar[bool] = ContextVar("must_be_heard", default=True)


@contextmanager
def ignore_closed_stdout() -> Iterator[None]:
    """Let what is done in the block go on though standard output cannot be written any more."""
    before = _must_be_heard.set(False)
    try:
        yield
    finally:
        _must_be_heard.reset(before)


def print_lines(*lines: str) -> None:
    """Print lines as they are: no markup is read in them and none is wrapped.

    Raises:
        WriteError: standard output cannot be written.
    """
    _print(*map(escape_control_chars, lines), markup=False, emoji=False, soft_wrap=True)


def print_warning(*lines: str) -> None:
    """The same on standard error, which leaves standard output to the results."""
    console = Console(stderr=True, highlight=False)
    with suppress(OSError):
        for line in lines:
            console.print(escape_control_chars(line), markup=False, emoji=False, soft_wrap=True)


def write_stdout(text: str) -> None:
    """Write text for another program to standard output, names in it byte by byte.

    On a terminal it is shown as by `print_lines`.

    Raises:
        WriteError: standard output cannot be written.
    """
    if sys.stdout.isatty():
        print_lines(text.removesuffix("\n"))
        return
    try:
        with _explaining_output():
            sys.stdout.flush()
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
            sys.stdout.buffer.flush()
    except WriteError as error:
        if isinstance(error.__cause__, BrokenPipeError):  # such as of `| head`, which has enough
            raise SystemExit(1) from error
        raise


def _print(*parts: RenderableType, **style: bool) -> None:
    console = _Stream(highlight=False)
    with _explaining_output():
        for part in parts:
            console.print(part, **style)  # type: ignore[arg-type]


@contextmanager
def _explaining_output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _cut_off(sys.stdout)
        if _must_be_heard.get():
            why = error.strerror or error
            raise WriteError(f"cannot write to standard output: {why}") from error


def _cut_off(stream: IO[str]) -> None:
    """Let what is said from now on, and what Python has kept of it, go nowhere in silence."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def format_bytes(count: int) -> str:
    """A number of bytes in words, such as `6.8 GB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def show_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a small table; columns of figures are aligned to the right."""
    table = Table(title=Text(escape_control_chars(title)), title_justify="left")
    for index, name in enumerate(header):
        is_text = not any(row[index][:1].isdigit() for row in rows)
        justify: Literal["left", "right"] = "left" if is_text else "right"
        table.add_column(Text(escape_control_chars(name)), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(escape_control_chars(cell)) for cell in row))
    _print(table)


def show_error(message: str) -> None:
    """Print what went wrong to standard error."""
    _show_panel("Error", "red", message)


def show_stop(message: str) -> None:
    """Print to standard error how a command ended that was asked to."""
    _show_panel("Stopped", "yellow", message)


def _show_panel(title: str, style: str, message: str) -> None:
    panel = Panel(
        Text(escape_control_chars(message)), title=title, title_align="left", border_style=style
    )
    try:
        _Stream(stderr=True).print(panel)
    except OSError:  # the exit code has to do
        _cut_off(sys.stderr)


def escape_control_chars(text: str) -> str:
    r"""Replace what could steer a terminal, such as escape codes, by `\x1b` and the like.

    New lines stay.
    """
    return "".join(
        char if char == "\n" or char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def escape_line(text: str) -> str:
    r"""The same for a name in a list, a table or a picture: a new line becomes `\n` too."""
    return escape_control_chars(text).replace("\n", r"\n")
