"""A few images with what a network says of them: small, and drawn in no time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from imgnet_mini.reporting.style import DPI, POINTS_PER_INCH, RIGHT, TEXT, WRONG, fit, new_figure

_COLUMNS: Final = 4
_SIDE: Final = 192  # pixels, of one image
_GAP: Final = 16
_ABOVE: Final = 48  # two lines of text
_FONT: Final = 6.0


@dataclass(frozen=True)
class Entry:
    """An image, the name of its class, and the one that the network gave it, with what right."""

    image: Image.Image
    true: str
    predicted: str
    probability: float
    is_right: bool


def thumbnail(image: Image.Image) -> Image.Image:
    """The middle of an image, as large as it will be drawn."""
    return ImageOps.fit(image, (_SIDE, _SIDE))


def draw_gallery(entries: Sequence[Entry]) -> Figure:
    """Thumbnails in rows of four, the true name above the predicted one."""
    rows, columns = math.ceil(len(entries) / _COLUMNS), min(_COLUMNS, len(entries))
    width, height = _GAP + columns * (_SIDE + _GAP), rows * (_SIDE + _ABOVE) + _GAP
    canvas = np.full((height, width, 3), 255, np.uint8)
    figure = new_figure(width / DPI, height / DPI)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    for place, entry in enumerate(entries):
        row, column = divmod(place, _COLUMNS)
        left, top = _GAP + column * (_SIDE + _GAP), row * (_SIDE + _ABOVE)
        canvas[top + _ABOVE :, left:][:_SIDE, :_SIDE] = np.asarray(entry.image)
        _write(axes, entry, left, top)
    axes.imshow(canvas)
    axes.set_axis_off()
    return figure


def _write(axes: Axes, entry: Entry, left: int, top: int) -> None:
    mark, color = ("✓", RIGHT) if entry.is_right else ("✗", WRONG)
    said = f"{mark} {100 * entry.probability:.0f} % {entry.predicted}"
    for text, line, line_color in ((entry.true, 1, TEXT), (said, 2, color)):
        axes.text(
            left,
            top + line * _ABOVE / 2 - 6,
            fit(text, _SIDE * POINTS_PER_INCH / DPI, _FONT),
            fontsize=_FONT,
            color=line_color,
            parse_math=False,
        )
