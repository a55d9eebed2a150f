"""Templates of pages, their style and their script, made into one file that needs no other."""

import base64
import hashlib
from importlib.resources import files
from types import SimpleNamespace

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from imgnet_mini import __version__
from imgnet_mini.reporting.page import axes
from imgnet_mini.reporting.readme.markdown import NOTHING, duration, fixed, rate
from imgnet_mini.utils.console import escape_control_chars

_AREA = SimpleNamespace(
    width=axes.WIDTH,
    height=axes.HEIGHT,
    left=axes.LEFT,
    right=axes.RIGHT,
    top=axes.TOP,
    bottom=axes.BOTTOM,
)


def render_page(template: str, **values: object) -> str:
    """The HTML of a packaged template.

    Everything in it is escaped. A browser runs no script and takes no style but ours, and loads
    nothing: the page names them by their digests (Content Security Policy, level 3).
    """
    style, script = page_file("page.css"), page_file("page.js")
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
        finalize=_shown,
    )
    environment.filters.update(fixed=fixed, rate=rate, percent=percent, duration=duration)
    environment.globals.update(area=_AREA, version=__version__, policy=policy)
    environment.globals.update(style=Markup(style), script=Markup(script))  # noqa: S704 - our own
    return environment.get_template(template).render(values) + "\n"


def percent(share: float | None, digits: int = 1) -> str:
    """A share from 0 to 1 in percent, with its sign."""
    return NOTHING if share is None else f"{fixed(100 * share, digits)} %"


def page_file(name: str) -> str:
    """A file beside the templates, with the line ends that a browser sees."""
    return files("imgnet_mini").joinpath("templates", name).read_text("utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _shown(value: object) -> object:
    """Spell out what could steer a terminal or the direction of the text."""
    is_plain = isinstance(value, str) and not isinstance(value, Markup)
    return escape_control_chars(value) if is_plain else value  # type: ignore[arg-type]
