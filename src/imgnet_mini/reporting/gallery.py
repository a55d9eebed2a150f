"""A PNG of validation images with their true and predicted classes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from imgnet_mini.reporting.examples import Example
from imgnet_mini.reporting.style import (
    CORRECT,
    DPI,
    GRID,
    POINTS_PER_INCH,
    TEXT,
    WRONG,
    fit_text,
    new_figure,
)

_GAP: Final = 16  # pixels


@dataclass(frozen=True)
class GalleryLayout:
    """Images in each row, side of an image in pixels, and font size in points."""

    columns: int
    side: int
    font: float

    @property
    def caption(self) -> int:
        """Height of the two lines above an image, in pixels."""
        return round(9.5 * self.font)


REPORT: Final = GalleryLayout(columns=6, side=300, font=8)
TENSORBOARD: Final = GalleryLayout(columns=4, side=192, font=6)


def draw_gallery(examples: Sequence[Example], layout: GalleryLayout) -> Figure:
    """Draw images in rows, the true class above the predicted one.

    An unreadable image is replaced by its file name.

    examples: at least one, with thumbnails of the side that the layout has.
    """
    side, cell = layout.side, layout.side + _GAP
    rows, columns = math.ceil(len(examples) / layout.columns), min(layout.columns, len(examples))
    width, height = _GAP + columns * cell, rows * (side + layout.caption) + _GAP
    canvas = np.full((height, width, 3), 255, np.uint8)
    figure = new_figure(width / DPI, height / DPI)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    for place, example in enumerate(examples):
        row, column = divmod(place, layout.columns)
        left, top = _GAP + column * cell, row * (side + layout.caption) + layout.caption
        square = canvas[top : top + side, left : left + side]
        if example.thumbnail is None:
            square[:] = [round(255 * part) for part in to_rgb(GRID)]
            _write_placeholder(axes, example, left, top, layout)
        else:
            square[:] = np.asarray(example.thumbnail)
        _write_caption(axes, example, left, top, layout)
    figure.figimage(canvas)  # pixel by pixel; imshow would resample it, in 300 MB of memory
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure


def _write_caption(
    axes: Axes, example: Example, left: int, top: int, layout: GalleryLayout
) -> None:
    predicted = example.top1
    mark, color = ("✓", CORRECT) if predicted.is_true else ("✗", WRONG)
    line = f"{mark} {100 * predicted.probability:.0f} % {predicted.name}"
    for text, height, text_color in (
        (example.true, 4 * layout.font, TEXT),
        (line, 0, color),
    ):
        _write(axes, text, left, top - height - layout.font, layout, color=text_color)


def _write_placeholder(
    axes: Axes, example: Example, left: int, top: int, layout: GalleryLayout
) -> None:
    middle = left + layout.side / 2, top + layout.side / 2
    for text, offset in (("not readable:", -2 * layout.font), (Path(example.file).name, 0)):
        _write(axes, text, middle[0], middle[1] + offset, layout, ha="center")


def _write(
    axes: Axes, text: str, x: float, y: float, layout: GalleryLayout, *, color: str = TEXT,
    ha: str = "left",
) -> None:  # fmt: skip
    width = 0.98 * layout.side * POINTS_PER_INCH / DPI
    line = fit_text(text, width, layout.font)
    axes.text(x, y, line, fontsize=layout.font, color=color, ha=ha, parse_math=False)
