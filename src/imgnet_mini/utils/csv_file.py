"""Tables with names in them, which any program may open and ours reads back."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from imgnet_mini.utils.atomic_file import write_text

# Spreadsheets compute a cell that starts with one of these, four of them wide forms, and drop an
# apostrophe before it. One that was there already is counted along, or reading would drop it too.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file of `table_text`.

    Raises:
        WriteError: the file cannot be written.
    """
    write_text(path, table_text(header, rows))


def table_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The text of a table; an apostrophe goes before what a spreadsheet would compute."""
    return "".join(f"{','.join(map(_cell, row))}\n" for row in (header, *rows))


def read_table(path: Path) -> Iterator[list[str]]:
    """The rows of what `write_table` wrote, the header first, with each text as it was.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no CSV file.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            for row in csv.reader(file):
                yield [_as_it_was(cell) for cell in row]
    except csv.Error as error:
        raise ValueError(str(error)) from error


def _cell(value: object) -> str:
    """Nothing for None; Python's own writer leaves a lone carriage return bare before 3.13."""
    if not isinstance(value, str):  # a matrix of 1,000 classes has a million numbers
        return "" if value is None else str(value)
    text = f"'{value}" if _FORMULA.match(value) else value
    quoted = text.replace('"', '""')
    return f'"{quoted}"' if re.search(r'[",;\t\r\n]', text) else text


def _as_it_was(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
