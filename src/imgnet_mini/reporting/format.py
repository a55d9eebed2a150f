"""Numbers as text, and addresses of files, for pages, READMEs and tables."""

import math
import os
import urllib.parse
from pathlib import Path

from imgnet_mini.errors import ConfigError

UNKNOWN = "\N{EN DASH}"
"""Shown in place of a value that is not known."""


def format_fixed(value: float | None, digits: int = 2) -> str:
    """Return a number with a fixed number of decimals, such as `12,345.67`."""
    return UNKNOWN if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def format_percent(fraction: float | None, digits: int = 1) -> str:
    """Return a fraction from 0 to 1 as a percentage, such as `12.3 %`."""
    return UNKNOWN if fraction is None else f"{format_fixed(100 * fraction, digits)} %"


def format_lr(value: float | None) -> str:
    """Return a learning rate with three significant digits, such as `0.0046` or `1e-4`."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if not 0 < value < 1e-3:
        return f"{value:.3g}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def format_duration(seconds: float | None) -> str:
    """Return a duration in its two largest units, such as `1 h 23 min`."""
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def relative_url(path: Path, folder: Path) -> str:
    """Return the percent-encoded address of a file, relative to a page in `folder`.

    Raises:
        ConfigError: no relative path exists (another drive on Windows).
    """
    try:
        relative = os.path.relpath(path, folder)
    except ValueError as error:
        raise ConfigError(
            f"a README in {folder} cannot link to {path}, which is on another drive; "
            "give --readme a file on the same drive"
        ) from error
    return urllib.parse.quote(os.fsencode(relative.replace(os.sep, "/")))
