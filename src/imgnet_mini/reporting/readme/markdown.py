"""Values as Markdown text; the filters of the templates."""

import math
import os
import re
import urllib.parse
from pathlib import Path

from imgnet_mini.errors import ConfigError
from imgnet_mini.utils.console import escape_control_chars, escape_line

NOTHING = "\N{EN DASH}"
"""What a table shows for a value that is not known."""

# Escaped by number, not by backslash, because that also holds inside HTML tags. An underscore
# between letters is plain text; the later lines start a list, a heading's underline or a link.
_SPECIAL = re.compile(
    r"""[\\`*{}\[\]<>&"|~$#@:]
    | (?<![^\W_])_ | _(?![^\W_])
    | ^[-+=]
    | (?<=\d)[.)](?=\s|$)
    | (?<=www)\.""",
    re.IGNORECASE | re.VERBOSE,
)


def escape(value: object) -> str:
    """One line that Markdown and HTML both show as it is; control characters are spelt out."""
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", escape_line(str(value)))


def code(value: object) -> str:
    """The same in the code font; for lines of Markdown, not for the inside of an HTML block."""
    text = str(value)
    plain = re.fullmatch(r"[\w./-]+", text, re.ASCII)
    return f"`{text}`" if plain else f"<code>{escape(text)}</code>"


def fence(text: str, language: str = "text") -> str:
    """A code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{escape_control_chars(text.expandtabs()).strip(chr(10))}\n{ticks}"


def fixed(value: float | None, digits: int = 2) -> str:
    """A number with so many decimals."""
    return NOTHING if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def rate(value: float | None) -> str:
    """A learning rate in three digits: `0.0046`, `1e-4`."""
    if value is None or math.isnan(value):
        return NOTHING
    if not 0 < value < 1e-3:
        return f"{value:.3g}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def duration(seconds: float | None) -> str:
    """Seconds in the two largest units that fit, such as `1 h 23 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def link(path: Path, folder: Path) -> str:
    """The address of a file as seen from a Markdown file in `folder`, percent-encoded.

    Raises:
        ConfigError: no relative path leads there (another drive of Windows).
    """
    try:
        relative = os.path.relpath(path, folder)
    except ValueError as error:
        raise ConfigError(
            f"a README in {folder} cannot link to {path}, which is on another drive; "
            "give --readme a file on the same drive"
        ) from error
    return urllib.parse.quote(os.fsencode(relative.replace(os.sep, "/")))


FILTERS = {"md": escape, "code": code, "fence": fence, "fixed": fixed, "rate": rate}
