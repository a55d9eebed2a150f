"""Generated text put into a file whose other bytes stay as they are."""

from pathlib import Path

from imgnet_mini.errors import ConfigError, DataError

RESULTS = "results"
NOTES = "notes"
EXPERIMENT = "<!-- imgnet-mini experiment -->"
"""The first line of a README that is written whole."""

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def start_marker(block: str) -> str:
    """The comment line above a block."""
    return f"<!-- imgnet-mini {block}: start -->"


def end_marker(block: str) -> str:
    """The comment line below a block."""
    return f"<!-- imgnet-mini {block}: end -->"


def with_block(content: bytes, text: str, path: Path, *, block: str = RESULTS) -> bytes:
    """The content of a README with `text` between a block's markers, appended if missing.

    The block takes the line ends of its first marker, or of the file's first line.

    Raises:
        DataError: the markers do not make one block, or the file is UTF-16.
    """
    lines = _lines(content, path)
    place = _find_block(lines, block, path)
    if place is None:
        end = _line_end(lines)
        markers = [start_marker(block), "", text, "", end_marker(block)]
        before = b""
        if content not in (b"", _BOM):
            before = end if lines[-1].endswith((b"\n", b"\r")) else end + end
        return content + before + _encode("\n".join(markers) + "\n", end)
    start, stop = place
    new = _encode(f"\n{text}\n\n", _line_end(lines[start:]))
    return b"".join([*lines[: start + 1], new, *lines[stop:]])


def as_experiment(content: bytes | None, text: str, path: Path) -> bytes:
    """A whole README in the line ends of the one it replaces, whose notes it keeps.

    Raises:
        ConfigError: the file was not written by this function.
        DataError: its note markers do not make one block, or the file is UTF-16.
    """
    if content is None:
        return _encode(text + "\n", b"\n")
    lines = _lines(content, path)
    if not lines or _bare(lines[0]) != EXPERIMENT.encode():
        raise ConfigError(
            f"{path} was not written by `imgnet-mini readme --template experiment`, so it is not "
            "overwritten; write another file with --readme OTHER.md"
        )
    bom = _BOM if content.startswith(_BOM) else b""
    new = _encode(text + "\n", _line_end(lines)).splitlines(keepends=True)
    kept, place = _find_block(lines, NOTES, path), _find_block(new, NOTES, path)
    if kept and place:
        new[place[0] + 1 : place[1]] = lines[kept[0] + 1 : kept[1]]
    return bom + b"".join(new)


def _find_block(lines: list[bytes], block: str, path: Path) -> tuple[int, int] | None:
    """The line numbers, from 0, of the two markers."""
    marks = {
        marker: [index for index, line in enumerate(lines) if _bare(line) == marker.encode()]
        for marker in (start_marker(block), end_marker(block))
    }
    starts, ends = marks.values()
    if not starts and not ends:
        return None
    for marker, places in marks.items():
        if len(places) > 1:
            raise DataError(
                f"{path}, line {places[1] + 1}: a second `{marker}` (the first is in line "
                f"{places[0] + 1}); leave one"
            )
    if not starts or not ends:
        there, missing = marks if starts else reversed(marks)
        raise DataError(
            f"{path}, line {(starts or ends)[0] + 1}: `{there}` without `{missing}`; "
            "add it, or remove this line"
        )
    if ends[0] < starts[0]:
        raise DataError(
            f"{path}, line {ends[0] + 1}: the block ends before it starts; swap the markers"
        )
    return starts[0], ends[0]


def _lines(content: bytes, path: Path) -> list[bytes]:
    if content.startswith(_UTF16):
        raise DataError(f"{path}, line 1: the file is UTF-16; save it as UTF-8")
    return content.splitlines(keepends=True)


def _bare(line: bytes) -> bytes:
    return line.removeprefix(_BOM).strip()


def _line_end(lines: list[bytes]) -> bytes:
    """The end of the first line; a line feed where there is none."""
    first = lines[0] if lines else b""
    return first[len(first.rstrip(b"\r\n")) :] or b"\n"


def _encode(text: str, line_end: bytes) -> bytes:
    return text.encode("utf-8", "backslashreplace").replace(b"\n", line_end)
