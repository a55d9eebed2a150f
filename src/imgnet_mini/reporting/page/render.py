"""Templates, style sheet and script made into one self-contained HTML file."""

import base64
import hashlib
from importlib.resources import files
from types import SimpleNamespace
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from imgnet_mini import __version__
from imgnet_mini.reporting.format import (
    format_duration,
    format_fixed,
    format_lr,
    format_percent,
)
from imgnet_mini.reporting.page import axes
from imgnet_mini.reporting.style import css_variables
from imgnet_mini.utils.console import escape_control_chars

_AREA: Final = SimpleNamespace(
    width=axes.WIDTH,
    height=axes.HEIGHT,
    left=axes.LEFT,
    right=axes.RIGHT,
    top=axes.TOP,
    bottom=axes.BOTTOM,
)


def render_page(template: str, **values: object) -> str:
    """Return the HTML of a packaged template.

    Every value is escaped. The page allows only its own style and script, by their digests, and
    loads nothing (Content Security Policy, level 3).
    """
    style, script = css_variables() + page_file("page.css"), page_file("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    environment = Environment(
        loader=PackageLoader("imgnet_mini"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_escape_control_characters,
    )
    environment.filters.update(
        fixed=format_fixed, rate=format_lr, percent=format_percent, duration=format_duration
    )
    environment.globals.update(area=_AREA, version=__version__, policy=policy)
    environment.globals.update(style=Markup(style), script=Markup(script))  # noqa: S704 - our own
    return environment.get_template(template).render(values) + "\n"


def page_file(name: str) -> str:
    """Return a file beside the templates, with the line ends that a browser sees."""
    return files("imgnet_mini").joinpath("templates", name).read_text("utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _escape_control_characters(value: object) -> object:
    """Spell out characters that control a terminal or the direction of text."""
    is_plain = isinstance(value, str) and not isinstance(value, Markup)
    return escape_control_chars(value) if is_plain else value  # type: ignore[arg-type]
