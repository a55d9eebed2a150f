"""How every picture of the report looks, and how its file is written."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from imgnet_mini.utils.atomic_file import atomic_write
from imgnet_mini.utils.console import escape_line

DPI = 150
POINTS_PER_INCH = 72

TRAIN = "#1f77b4"
VALIDATION = "#d95f02"
AVERAGED = "#8e3b9e"
RIGHT = "#1a7f37"
WRONG = "#c62828"
TEXT = "#24292f"
FAINT = "#6e7781"
GRID = "#d8dee4"

_LONGEST = 100  # characters
_MARGIN = 0.15  # inches


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure; sizes in inches. It belongs to no global state."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def tidy(axes: Axes) -> None:
    """Take the box off, leave a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=TEXT)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure, cut or widened to what is drawn.

    Raises:
        WriteError: the file cannot be written.
    """
    with atomic_write(path) as file:
        file.write(to_png(figure))


def to_png(figure: Figure) -> bytes:
    """The bytes of such a file."""
    file = io.BytesIO()
    with _missing_glyphs_allowed():
        figure.savefig(file, format="png", bbox_inches="tight", pad_inches=_MARGIN)
    return file.getvalue()


def to_png_quickly(figure: Figure) -> bytes:
    """The same in half the time: not cut, so that it is drawn once, and less compressed."""
    file = io.BytesIO()
    with _missing_glyphs_allowed():
        figure.savefig(file, format="png", pil_kwargs={"compress_level": 1})
    return file.getvalue()


def fit(name: str, width: float, size: float) -> str:
    """The name on one line, its end elided where it is wider than `width`; both in points."""
    text = escape_line(name)
    if len(text) <= _LONGEST and text_width(text, size) <= width:
        return text
    text = text[:_LONGEST]
    while text and text_width(f"{text}…", size) > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def text_width(text: str, size: float) -> float:
    """In points, in the font of the pictures."""
    with _missing_glyphs_allowed():
        width: float = text_to_path.get_text_width_height_descent(
            text, FontProperties(size=size), ismath=False
        )[0]
    return width


@contextmanager
def _missing_glyphs_allowed() -> Iterator[None]:
    """Names in a script that the font lacks come out as boxes; a warning each would help nobody."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        yield
