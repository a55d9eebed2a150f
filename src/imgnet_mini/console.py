"""The two streams a user reads: results on standard output, errors on standard error."""

import os
import sys
from typing import Literal

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text


def say(*lines: str) -> None:
    """Print lines as they are: no markup is read in them and none is wrapped."""
    _print(Console(highlight=False), lines)


def warn(*lines: str) -> None:
    """The same on standard error, which leaves standard output to the results."""
    _print(Console(stderr=True, highlight=False), lines)


def hand_over(text: str) -> None:
    """Write text for another program to standard output, names in it byte by byte.

    On a terminal it is shown as by `say`.
    """
    if sys.stdout.isatty():
        say(text.removesuffix("\n"))
        return
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:  # such as that of `| head`, which has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
        raise SystemExit(1) from error


def in_bytes(count: int) -> str:
    """A number of bytes in words, such as `6.8 GB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def show_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a small table; columns of figures are aligned to the right."""
    table = Table(title=Text(printable(title)), title_justify="left")
    for index, name in enumerate(header):
        is_text = not any(row[index][:1].isdigit() for row in rows)
        justify: Literal["left", "right"] = "left" if is_text else "right"
        table.add_column(Text(printable(name)), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(highlight=False).print(table)


def show_error(message: str) -> None:
    """Print what went wrong to standard error."""
    _show_panel("Error", "red", message)


def show_stop(message: str) -> None:
    """Print to standard error how a command ended that was asked to."""
    _show_panel("Stopped", "yellow", message)


def _show_panel(title: str, style: str, message: str) -> None:
    panel = Panel(Text(printable(message)), title=title, title_align="left", border_style=style)
    Console(stderr=True).print(panel)


def printable(text: str) -> str:
    r"""Replace what could steer a terminal, such as escape codes, by `\x1b` and the like.

    New lines stay.
    """
    return "".join(
        char if char == "\n" or char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )


def one_line(text: str) -> str:
    r"""The same for a name in a list, a table or a picture: a new line becomes `\n` too."""
    return printable(text).replace("\n", r"\n")


def _print(console: Console, lines: tuple[str, ...]) -> None:
    for line in lines:
        console.print(printable(line), markup=False, emoji=False, soft_wrap=True)
