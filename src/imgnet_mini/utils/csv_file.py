"""CSV files that spreadsheets cannot run formulas from, and that read back unchanged."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from imgnet_mini.utils.atomic_file import write_text

# Spreadsheets evaluate a cell that starts with one of these characters (four are fullwidth forms),
# and drop an apostrophe before it. Leading apostrophes match too: else reading would drop them.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, see `table_text`.

    Raises:
        WriteError: the file cannot be written.
    """
    write_text(path, table_text(header, rows))


def table_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as CSV; an apostrophe precedes text that a spreadsheet would evaluate."""
    return "".join(f"{','.join(map(_escape_cell, row))}\n" for row in (header, *rows))


def read_table(path: Path) -> Iterator[list[str]]:
    """Yield the rows of a file of `write_table`, the header first, without the apostrophes.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not CSV.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            for row in csv.reader(file):
                yield [_unescape_cell(cell) for cell in row]
    except csv.Error as error:
        raise ValueError(str(error)) from error


def _escape_cell(value: object) -> str:
    # csv.writer is not used: before Python 3.13 it leaves a lone carriage return unquoted.
    if not isinstance(value, str):  # fast path: a matrix of 1,000 classes has a million numbers
        return "" if value is None else str(value)
    text = f"'{value}" if _FORMULA.match(value) else value
    quoted = text.replace('"', '""')
    return f'"{quoted}"' if re.search(r'[",;\t\r\n]', text) else text


def _unescape_cell(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
