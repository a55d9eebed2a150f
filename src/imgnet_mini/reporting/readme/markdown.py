"""Text as Markdown; the filters of the templates."""

import re
from collections.abc import Callable
from typing import Final

from imgnet_mini.reporting.format import format_duration, format_fixed, format_lr, format_percent
from imgnet_mini.utils.console import escape_control_chars, escape_line

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
    """Return one line that Markdown and HTML show literally, control characters spelled out."""
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", escape_line(str(value)))


def code(value: object) -> str:
    """Return an escaped value in the code font, for Markdown outside of HTML blocks."""
    text = str(value)
    plain = re.fullmatch(r"[\w./-]+", text, re.ASCII)
    return f"`{text}`" if plain else f"<code>{escape(text)}</code>"


def fence(text: str, language: str = "text") -> str:
    """Return a code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{escape_control_chars(text.expandtabs()).strip(chr(10))}\n{ticks}"


FILTERS: Final[dict[str, Callable[..., str]]] = {
    "md": escape,
    "code": code,
    "fence": fence,
    "fixed": format_fixed,
    "percent": format_percent,
    "rate": format_lr,
    "duration": format_duration,
}
