"""Colors of all plots and pages, and helpers to draw and write PNG files."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from imgnet_mini.reporting.fonts import to_drawable
from imgnet_mini.utils.atomic_file import atomic_write
from imgnet_mini.utils.console import escape_line

DPI: Final = 150
POINTS_PER_INCH: Final = 72

TRAIN: Final = "#1f77b4"
VALIDATION: Final = "#d95f02"
EMA: Final = "#8e3b9e"
CORRECT: Final = "#1a7f37"
WRONG: Final = "#c62828"
TEXT: Final = "#24292f"
FAINT: Final = "#57606a"
GRID: Final = "#d8dee4"
SERIES: Final = (
    *(TRAIN, VALIDATION, CORRECT, EMA, "#8a6d00", "#0f8b8d", WRONG, "#5b5bd6", "#6b4f3a", FAINT),
)
"""One color for each run of a comparison."""

_LIGHT_PAGE: Final = {
    "background": "#ffffff", "panel": "#f5f6f8", "text": TEXT, "faint": FAINT, "grid": GRID,
    "train": TRAIN, "validation": VALIDATION, "ema": EMA, "correct": CORRECT, "wrong": WRONG,
}  # fmt: skip
_DARK_PAGE: Final = {
    "background": "#101317", "panel": "#191d23", "text": "#e7eaee", "faint": "#9ba5b0",
    "grid": "#2c333b", "train": "#68b0f0", "validation": "#ff9a57", "ema": "#e58ad8",
    "correct": "#5cc47b", "wrong": "#ff7a75",
}  # fmt: skip
_DARK_SERIES: Final = (
    *("#68b0f0", "#ff9a57", "#5cc47b", "#e58ad8", "#d9b944"),
    *("#4fc7c9", "#ff7a75", "#a3a3ff", "#c9a68c", "#9ba5b0"),
)

_MAX_CHARACTERS: Final = 100
_MARGIN: Final = 0.15  # inches


def css_variables() -> str:
    """Return the style sheet of the colors: `--train` and so on, for light and dark pages."""
    light, dark = (
        "".join(f"--{name}: {color}; " for name, color in colors.items())
        for colors in (
            _LIGHT_PAGE | {f"series-{place}": color for place, color in enumerate(SERIES)},
            _DARK_PAGE | {f"series-{place}": color for place, color in enumerate(_DARK_SERIES)},
        )
    )
    return (
        f":root {{ color-scheme: light dark; {light}}}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}\n"
    )


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure of a size in inches, outside of pyplot's global state."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def style_axes(axes: Axes) -> None:
    """Remove the top and right spine, and draw a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=TEXT)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def save_png(figure: Figure, path: Path, *, fast: bool = False) -> None:
    """Write a figure, cropped or extended to what is drawn; or see `to_png_fast`.

    Raises:
        WriteError: the file cannot be written.
    """
    with atomic_write(path) as file:
        file.write(to_png_fast(figure) if fast else to_png(figure))


def to_png(figure: Figure) -> bytes:
    """Return the PNG of a figure, cropped or extended to what is drawn."""
    file = io.BytesIO()
    with _ignore_missing_glyphs():
        figure.savefig(file, format="png", bbox_inches="tight", pad_inches=_MARGIN)
    return file.getvalue()


def to_png_fast(figure: Figure) -> bytes:
    """Return the PNG of a figure in half the time: drawn once, not cropped, less compressed."""
    file = io.BytesIO()
    with _ignore_missing_glyphs():
        figure.savefig(file, format="png", pil_kwargs={"compress_level": 1})
    return file.getvalue()


def fit_text(text: str, width: float, size: float) -> str:
    """Return the text on one line, shortened with an ellipsis if wider than `width`.

    width, size: in points.
    """
    text = to_drawable(escape_line(text))
    if len(text) <= _MAX_CHARACTERS and text_width(text, size) <= width:
        return text
    text = text[:_MAX_CHARACTERS]
    while text and text_width(f"{text}…", size) > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def text_width(text: str, size: float) -> float:
    """Return the width of a text in the font of the plots; both in points."""
    with _ignore_missing_glyphs():
        width: float = text_to_path.get_text_width_height_descent(
            text, FontProperties(size=size), ismath=False
        )[0]
    return width


@contextmanager
def _ignore_missing_glyphs() -> Iterator[None]:
    """Draw characters that the font lacks as boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        yield
