"""Confusion matrices: counts, CSV table, PNG plot, and a small image for the page."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from imgnet_mini.reporting.style import (
    FAINT,
    POINTS_PER_INCH,
    TEXT,
    VALIDATION,
    fit_text,
    new_figure,
    save_png,
    text_width,
)
from imgnet_mini.runs.predictions import Predictions
from imgnet_mini.utils.csv_file import write_table

NUMBERED_CLASSES: Final = 20
NAMED_CLASSES: Final = 60
"""Up to this many classes, each cell shows its count, and each row its name."""

_NAME_WIDTH: Final = 150.0  # points
_SMALLEST_DOT: Final = 2.2  # points; smaller ones vanish when the plot is shown reduced

# Zero is white and the smallest share already a clear orange, so that single errors are visible.
_COLORS: Final = ListedColormap(colormaps["magma_r"](np.linspace(0.2, 0.95, 256)))
_SHARE: Final = Normalize(0, 1)

_MAX_CELLS: Final = 250
"""Side of the page's image; with more classes, neighbors share a cell, which shows the maximum."""

_MIN_OPACITY: Final = 70
"""Opacity of 255 of the smallest share above 0, so that a single error is visible."""


def count_confusions(predictions: Predictions) -> NDArray[np.int64]:
    """Return the confusion matrix (C, C): row, the true class; column, the top-1 prediction."""
    size = len(predictions.classes)
    cells = predictions.targets * size + predictions.top[:, 0]
    return np.bincount(cells, minlength=size * size).reshape(size, size)


def write_confusion_csv(
    counts: NDArray[np.int64], classes: Sequence[str], report_dir: Path
) -> None:
    """Write `confusion_matrix.csv`: a row for each true class, a column for each predicted one.

    counts: (C, C), a row for each true class; classes: C folder names.

    Raises:
        WriteError: the file cannot be written.
    """
    rows = ([name, *row] for name, row in zip(classes, counts.tolist(), strict=True))
    write_table(report_dir / "confusion_matrix.csv", ["true/predicted", *classes], rows)


def draw_confusion(counts: NDArray[np.int64], names: Sequence[str], report_dir: Path) -> None:
    """Write `confusion_matrix.png`.

    Raises:
        WriteError: the file cannot be written.
    """
    save_png(confusion_figure(counts, names), report_dir / "confusion_matrix.png")


def confusion_figure(counts: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Return the plot; the color of a cell is its share of the images of the true class.

    counts: (C, C), a row for each true class; names: C display names.
    """
    size = len(names)
    shares = _row_shares(counts)
    side = min(10.0, max(3.0, 0.5 * size))  # inches, of the matrix alone
    figure = new_figure(side, side)
    figure.set_layout_engine("none")  # the matrix fills it; labels and color bar lie outside
    axes = figure.add_axes((0, 0, 1, 1))
    _draw_cells(axes, shares, cell=side / size)
    _label_axes(axes, names, cell=side / size)
    if size <= NUMBERED_CLASSES:
        _write_counts(axes, counts, shares)
    _add_color_bar(figure, side)
    return figure


def _draw_cells(axes: Axes, shares: NDArray[np.float64], cell: float) -> None:
    """Draw squares if they are large enough, else dots that may overlap; `cell` in inches."""
    size = len(shares)
    if cell * POINTS_PER_INCH >= _SMALLEST_DOT:
        image = np.ma.masked_equal(shares, 0)
        axes.imshow(image, cmap=_COLORS, norm=_SHARE, interpolation="nearest")
    else:
        rows, columns = np.nonzero(shares)
        values = shares[rows, columns]
        order = np.argsort(values, kind="stable")  # the largest on top
        axes.scatter(
            columns[order],
            rows[order],
            c=values[order],
            s=_SMALLEST_DOT**2,
            marker="s",
            linewidths=0,
            cmap=_COLORS,
            norm=_SHARE,
        )
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")


def _label_axes(axes: Axes, names: Sequence[str], cell: float) -> None:
    size = len(names)
    axes.spines[:].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=TEXT)
    if size > NAMED_CLASSES:
        unit = "class index, in the order of confusion_matrix.csv"
        axes.set_xlabel(f"predicted ({unit})")
        axes.set_ylabel(f"true ({unit})")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        return
    font = min(9.0, 0.8 * cell * POINTS_PER_INCH)
    labels = [fit_text(name, _NAME_WIDTH, font) for name in names]
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    is_wide = max(text_width(label, font) for label in labels) > 0.9 * cell * POINTS_PER_INCH
    rotation = 90 if is_wide else 0
    axes.set_xticks(range(size), labels, rotation=rotation, fontsize=font, parse_math=False)
    axes.set_yticks(range(size), labels, fontsize=font, parse_math=False)


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for (row, column), count in np.ndenumerate(counts):
        color = FAINT if count == 0 else "white" if shares[row, column] > 0.3 else "black"
        axes.text(column, row, f"{count}", ha="center", va="center", fontsize=8, color=color)


def _add_color_bar(figure: Figure, side: float) -> None:
    axes = figure.add_axes((1 + 0.2 / side, 0.1, 0.2 / side, 0.8))
    bar = figure.colorbar(ScalarMappable(_SHARE, _COLORS), cax=axes)
    bar.set_label("share of the true class's images (white: none)", color=TEXT)
    bar.outline.set_visible(False)


def confusion_image(counts: NDArray[np.int64]) -> str:
    """Return a PNG as data URI, one pixel for each cell, on a transparent background.

    counts: (C, C), a row for each true class; the opacity is the share of the row's images.
    """
    shares = _row_shares(counts)
    block = -(-len(shares) // _MAX_CELLS)
    side = -(-len(shares) // block)
    padded = np.zeros((side * block, side * block))
    padded[: len(shares), : len(shares)] = shares
    cells = padded.reshape(side, block, side, block).max((1, 3))
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[..., :3] = [round(255 * part) for part in to_rgb(VALIDATION)]
    pixels[..., 3] = np.where(cells > 0, _MIN_OPACITY + (255 - _MIN_OPACITY) * cells, 0)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _row_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return shares
