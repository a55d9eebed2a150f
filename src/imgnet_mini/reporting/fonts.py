"""Characters that the font of the plots lacks: other fonts of the system, or the code point."""

from collections.abc import Iterator
from functools import cache

import matplotlib
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font


def to_drawable(text: str) -> str:
    r"""Return a text with characters that no font has as code points, such as `\u732b`.

    If a font of the system has one, it is added to the fonts of all plots.
    """
    return "".join(
        char if _find_font(char) else char.encode("unicode_escape").decode() for char in text
    )


@cache
def _find_font(char: str) -> bool:
    """Return whether the plots can draw a character, now that the fonts for it are set."""
    families = matplotlib.rcParams["font.family"]
    if ord(char) in _characters(findfont(FontProperties(family=families[:1]))):
        return True
    for name, path in _system_fonts():
        if ord(char) in _characters(path):
            if name not in families:
                matplotlib.rcParams["font.family"] = [*families, name]
            return True
    return False


def _system_fonts() -> Iterator[tuple[str, str]]:
    """Yield name and path of the regular fonts outside of matplotlib, sans serif first.

    Some of matplotlib's own hold other symbols than their code points say.
    """
    bundled = matplotlib.get_data_path()
    fonts = {
        (entry.name, entry.fname)
        for entry in fontManager.ttflist
        if entry.style == "normal" and not entry.fname.startswith(bundled)
    }
    return iter(sorted(fonts, key=lambda font: ("Sans" not in font[0], font)))


@cache
def _characters(path: str) -> frozenset[int]:
    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError):  # FreeType cannot read it
        return frozenset()
